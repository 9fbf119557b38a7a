"""A step of a run again: where its numbers stop being finite, and on which images."""

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.core.errors import check
from training.config.pretrain import PretrainConfig
from training.config.settings import HeldoutConfig, KnnConfig, TrackConfig
from training.core.context import LocalContext
from training.data.loader import make_loader
from training.engine.loop import Trainer
from training.engine.preflight import preflight, total_steps
from training.engine.start import checkpoints
from training.record.metrics import METRICS_FILE
from training.record.mirror import working_folder


@dataclass(frozen=True)
class Replayed:
    """What a step did when it was run again.

    Attributes:
        step: 1 or more, as the record counts.
        start: of the checkpoint that it was reached from; 0: the start of the run.
        loss: None where `fault` came first.
        first_not_finite: the first step from `start` on whose loss is not finite; None: none.
        fault: what anomaly detection found in the backward pass.
        images: keys of the global batch.
    """

    step: int
    start: int
    loss: float | None
    first_not_finite: int | None
    fault: str | None
    images: list[str]


def replay_step(config: PretrainConfig, step: int) -> Replayed:
    """Run a step of a run again, in this process and with PyTorch's anomaly detection.

    The steps from the newest checkpoint before it on are run, too. The run's folder stays as it is.

    Args:
        config: of the run.
        step: from 1 to the run's last; that number of steps is done after it.

    Raises:
        InputError: there is no such step, or the folder holds another run.
    """
    with working_folder(config) as (config, _), TemporaryDirectory() as folder:
        total = total_steps(config, preflight(config, 1))
        check(1 <= step <= total, f"--replay-step {step} must be from 1 to {total}, the run's last")
        start = max((done for done in checkpoints(config).steps() if done < step), default=0)
        trainer = Trainer(_copy(config, start, Path(folder) / "run"), LocalContext())
        try:
            return _run_to(trainer, start, step)
        finally:
            trainer.record.close(finished=False)


def _copy(config: PretrainConfig, start: int, out: Path) -> PretrainConfig:
    """The run in another folder, which it may write to, with a checkpoint alone."""
    out.mkdir()
    for path in config.out.iterdir() if config.out.is_dir() else ():
        if path.is_file() and path.name != METRICS_FILE:
            shutil.copy(path, out)
    if start:
        newest = checkpoints(config).folder_of(start)
        (out / newest.parent.name).mkdir()
        (out / newest.parent.name / newest.name).symlink_to(newest)
    nothing = {"knn": KnnConfig(), "heldout": HeldoutConfig(), "track": TrackConfig()}
    return replace(config, out=out, **nothing)  # type: ignore[arg-type]


def _run_to(trainer: Trainer, start: int, step: int) -> Replayed:
    loader = make_loader(
        trainer.dataset, start_step=start, stop_step=step, num_workers=0, pin_memory=False
    )
    loss, first, fault = None, None, None
    for batch in loader:
        is_last = trainer.step == step - 1
        try:
            with torch.autograd.set_detect_anomaly(is_last):
                loss = float(trainer.train_step(batch).loss.detach())
        except RuntimeError as error:
            if not is_last or "returned nan" not in str(error):
                raise
            loss, fault = None, str(error).splitlines()[0]
        if first is None and (loss is None or not math.isfinite(loss)):
            first = trainer.step + (loss is None)
    images = trainer.dataset.keys_at(step - 1)
    return Replayed(step, start, loss, first, fault, images)


def replay_lines(replayed: Replayed) -> list[str]:
    """Lines for people."""
    first, step = replayed.first_not_finite, replayed.step
    lines = [f"step {step}, from the checkpoint of step {replayed.start}"]
    if replayed.loss is not None:
        lines.append(f"loss       {replayed.loss:.6g}")
    if replayed.fault is not None:
        lines.append(f"backward   {replayed.fault}")
    if first is not None and first < step:
        lines.append(f"earlier    the loss is not finite from step {first} on: replay that one")
    return [*lines, f"images     {', '.join(replayed.images)}"]
