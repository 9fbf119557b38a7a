"""What a run reports while it trains: the record, the progress, and warnings."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.core.errors import Collapsed, Diverged
from pipeline.core.progress import WARNING, Standing, say, show
from training.config.pretrain import PretrainConfig
from training.core.distributed import rank
from training.data.damage import DamageLog
from training.evaluate.checks import INSTANCE_ACCURACY, OBJECT_SENSITIVITY
from training.methods.interface import StepResult
from training.record import metrics
from training.record.learning import CollapseWatch, Learning
from training.record.metrics import MetricsLog
from training.record.totals import Interval, Tally, samples_digest
from training.record.trackers import Trackers
from training.views.inputs import HostBatch
from training.views.learned import BETWEEN_IMAGES, MIX

DAMAGED, SEEN = "damaged_samples", "samples_seen"
"""In the record: damaged samples that were skipped so far (one counts in every epoch), and the
digest of all samples that were trained on so far (`samples_digest`)."""
SAID = {
    "knn": "kNN {:.2f} %",
    "heldout_loss": "held-out loss {:.4f}",
    INSTANCE_ACCURACY: "instance accuracy {:.0f} %",
    OBJECT_SENSITIVITY: "object sensitivity {:.3f}",
}
"""Words for the figures of an evaluation that are shown."""
MOST_ALL_FOREGROUND = 0.2
"""Share of views that are foreground only from which the record warns."""
LEAST_BETWEEN_IMAGES = 0.1
"""Share of the variance of a mask generator's logits between images below which it warns."""


class RunRecord:
    """One rank's part of the record; every rank calls the same methods, rank 0 writes.

    `positions` are this rank's places in every global batch; all steps are global.
    """

    def __init__(self, config: PretrainConfig, positions: range, steps_per_epoch: int) -> None:
        self._config = config
        self._positions, self._steps_per_epoch = positions, steps_per_epoch
        self._collapse = CollapseWatch(config.collapse)
        self._learning = Learning(config.collapse)
        self._tally = Tally(DAMAGED, SEEN)
        self._damage = DamageLog(config.out)
        self._log: MetricsLog | None = None
        self.interval = Interval()
        self.values: dict[str, float] = {}
        self._note = ""
        self._warned = self._warned_of_masks = False

    def open(self, *, resume_step: int) -> None:
        """Opens the files, on rank 0; cuts off what was written after ``resume_step``."""
        if rank() == 0:
            config = self._config
            trackers = Trackers(config.track, config.out, config.to_json())
            self._log = MetricsLog(config.out, resume_step=resume_step, trackers=trackers)

    def close(self, *, finished: bool) -> None:
        """Closes the files of a run that has finished or was stopped."""
        if self._log is not None:
            self._log.close(finished=finished)
            self._log.say_lost()

    def show(self, step: int, name: str, path: Path) -> None:
        """Shows a PNG of global step ``step`` wherever the run is recorded."""
        if self._log is not None:
            self._log.picture(step=step, name=name, path=path)

    def show_progress(self, step: int) -> None:
        """Shows the progress after ``step`` global steps."""
        if self._log is not None:
            total = self._config.epochs * self._steps_per_epoch
            show(Standing(work="training", done=step, total=total, unit="steps", note=self._note))

    def add(
        self, step: int, batch: HostBatch, result: StepResult, scalars: dict[str, Tensor], lr: float
    ) -> None:
        """Adds global ``step``: its samples, and scalars on the device whose means are recorded."""
        digest = samples_digest(step, self._positions, batch.sample_ids_B.numpy())
        self._tally.add(**{DAMAGED: len(batch.damages), SEEN: digest})
        self._damage.note(step, (damage.reason for damage in batch.damages))
        scalars = {"loss": result.loss.detach(), **result.metrics, **scalars}
        self.interval.add(scalars, lr=lr, **result.settings)

    def write_interval(self, step: int) -> None:
        """Writes the means since the last such line, after ``step`` global steps.

        Raises `Diverged` if the loss is no longer finite, and `Collapsed` as `write_evaluation`.
        """
        values, totals = self.interval.finish(self._config.batch_size), self._tally.settle()
        if self._config.on_damaged == "skip":
            values[DAMAGED] = float(totals[DAMAGED])
        self.values |= values
        for name in ("loss", *values):
            if not np.isfinite(values[name]):
                raise Diverged(
                    f"the loss is no longer finite at step {step} ({name} {values[name]}): lower "
                    "--optim.lr, --method.rho or --method.object-rho, or lengthen their warm-up"
                )
        if self._log is not None:
            seen = {SEEN: f"{totals[SEEN]:016x}"}
            self._log.write(step=step, kind="train", values=values, notes=seen)
            self._note = self._words(step, values)
            self._log.say_lost()
        flat = values.get("all_foreground", 0.0)
        if flat > MOST_ALL_FOREGROUND and not self._warned:
            self._warned = True
            self._warn(
                step,
                f"{flat:.0%} of the views are foreground only: masks and hard negatives cannot "
                "tell the object there; try --masks.foreground otsu or another saliency source",
            )
        mix, share = self._config.masks.learned.mix, values.get(BETWEEN_IMAGES, 1.0)
        if share < LEAST_BETWEEN_IMAGES and values[MIX] >= mix > 0 and not self._warned_of_masks:
            self._warned_of_masks = True
            sign = f"{share:.0%} of the variance of the generator's logits is between images"
            self._warn(step, f"learned masks are nearly the same for every image: {sign}")
        if "embedding_spread" in values:
            self._on_collapse(step, self._collapse.look_at_spread(step, values["embedding_spread"]))

    def write_evaluation(self, step: int, *, knn_images: float = 0, **values: float) -> None:
        """Writes what was measured after ``step`` global steps (``run_checks``).

        `knn_images` is the number of validation images that ``knn`` was measured on.

        Raises:
            Collapsed: the embeddings have collapsed, and ``on_collapse`` is ``stop``.
        """
        self.values |= values
        self._learning.take(step, values)
        if self._log is not None:
            self._log.write(step=step, kind="eval", values=values)
            words = [text.format(values[name]) for name, text in SAID.items() if name in values]
            say(f"{', '.join(words)} after {step} steps")
        if "knn" in values:
            warning = self._collapse.look_at_knn(step, values["knn"], int(knn_images))
            self._on_collapse(step, warning)

    def write_verdict(self, step: int) -> None:
        """Writes whether the run has learned, if that was measured.

        Before the last checkpoint: a run that has one is finished and writes nothing any more.
        """
        verdict = self._learning.verdict()
        if self._log is not None and verdict is not None:
            self._log.message(step=step, kind=metrics.LEARNING, message=verdict)

    def _on_collapse(self, step: int, warning: str | None) -> None:
        if warning is None:
            return
        stop = self._config.on_collapse == "stop"
        self._warn(step, warning, aloud=not stop)
        if stop:
            raise Collapsed(f"at step {step}: {warning} (--on-collapse is stop)")

    def _warn(self, step: int, warning: str, *, aloud: bool = True) -> None:
        if self._log is not None:
            self._log.message(step=step, kind=metrics.WARNING, message=warning)
            if aloud:
                say(f"{WARNING}at step {step}: {warning}")

    def _words(self, step: int, values: dict[str, float]) -> str:
        damaged = f", {values[DAMAGED]:.0f} damaged samples" if values.get(DAMAGED) else ""
        return (
            f"epoch {step / self._steps_per_epoch:.2f}/{self._config.epochs}, "
            f"loss {values['loss']:.4f}, lr {values['lr']:.4g}, "
            f"{values['images_per_second']:.0f} images/s, "
            f"{values['data_wait_share']:.1%} waiting for data{damaged}"
        )

    def settle(self) -> None:
        """Makes the state the same on every rank, before a checkpoint."""
        self.interval.average_over_ranks()
        self._tally.settle()

    def state_dict(self) -> dict[str, Any]:
        """State for a checkpoint, after `settle`."""
        return {
            "interval": {"sums": self.interval.sums, "steps": self.interval.steps},
            "collapse": self._collapse.state,
            "learning": self._learning.state,
            "tally": self._tally.totals,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the state of a checkpoint; what an older one lacks stays as at the start."""
        self.interval.sums, self.interval.steps = (state["interval"][k] for k in ("sums", "steps"))
        self._collapse.state |= state["collapse"]
        if self._config.on_collapse == "stop":  # a collapse that was only a warning ends the run
            self._collapse.state["collapsed"] = []
        self._learning.state |= state.get("learning", {})
        self._tally.totals |= state["tally"]
