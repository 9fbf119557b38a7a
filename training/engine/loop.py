"""The training loop: sees a context, never Ray; the same in one process and on a cluster."""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import NOT_WRITABLE, Collapsed, Diverged, write_error
from pipeline.core.faults import STEP, point
from pipeline.core.memory import keep_freed_memory
from pipeline.core.progress import duration, say
from pipeline.images.filters import scaled_kernel
from pipeline.saliency.mask_generator import write_generator
from pipeline.shardset.manifest import load_dataset_info
from training.config.derived import replayed_sets, stream_config
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import load_state
from training.core.context import TrainContext
from training.core.distributed import agree, balanced_weights, data_parallel, rank, world_size
from training.core.schedules import Moment, cosine_lr
from training.core.threads import update_threads
from training.data.loader import make_loader
from training.data.stream import BatchDataset
from training.encoders.export import export_backbone
from training.encoders.stem import join_masks, with_mask
from training.engine.adversary import Adversary
from training.engine.anchor import make_anchor
from training.engine.device import autocast_dtype, num_loader_workers
from training.engine.optimisers import build_optimiser
from training.engine.parts import InParts
from training.engine.preflight import steps_per_epoch
from training.engine.result import RunResult, write_failed_step
from training.engine.start import build_method, checkpoints, first_state
from training.evaluate.checks import run_checks
from training.methods.interface import StepResult
from training.randomness.draws import sample_seeds
from training.record.contact_sheet import shown_views, write_contact_sheet
from training.record.mirror import Mirror
from training.record.run_record import RunRecord
from training.views.fills import HIGH_PASS_AT_224, fill_named
from training.views.inputs import HostBatch, build_inputs, to_device
from training.views.spec import ViewSpec

CONTINUE, SAVE, STOP = 0, 1, 2


class Trainer:
    """One rank's state of a run that ``preflight`` has passed.

    Starts it, or resumes it from the newest checkpoint in ``config.out``.
    """

    mirror: Mirror | None = None  # of rank 0, where the run is in a bucket

    def __init__(self, config: PretrainConfig, context: TrainContext) -> None:
        self.config, self.context, self.device = config, context, context.device
        self.info = load_dataset_info(config.shards)
        self.dataset = BatchDataset(
            config.shards,
            self.info,
            stream_config(config),
            rank=rank(),
            world_size=world_size(),
            cache=config.cache,
            replayed=replayed_sets(config),
        )
        self.steps_per_epoch = steps_per_epoch(config, self.info)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.fill = fill_named(config.fill).of_set(self.info.pixels.normalisation)
        self.autocast = autocast_dtype(config.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        self.method = build_method(config)
        self.method.to(self.device)
        self.method.to(memory_format=torch.channels_last)
        self.optimizer = build_optimiser(config.optim, self.method.trained, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.autocast is torch.float16)
        learned = config.masks.strategy == "learned"
        self.adversary = Adversary(config, self.fill, self.device) if learned else None
        self.record = RunRecord(config, self.dataset.positions, self.steps_per_epoch)
        self.store = checkpoints(config)
        self.step = self._resume()
        self.anchor = make_anchor(config, self.method, self.fill, begun=self.step > 0)
        trained, parts = self.method.trained, config.accumulate
        self.encode = data_parallel(InParts(trained, parts) if parts > 1 else trained, self.device)
        self.record.open(resume_step=self.step)
        self._saved_at = time.monotonic()

    def run(self) -> RunResult:
        """Trains to the end, or until a stop is asked for."""
        try:
            self._run()
        except BaseException as error:
            with suppress(OSError):  # what ended the run may stop this, too
                self.record.close(finished=False)
                if isinstance(error, Diverged | Collapsed) and rank() == 0:
                    images = self.dataset.keys_at(self.step - 1)
                    write_failed_step(self.config, self.step, str(error), images)
            if isinstance(error, OSError) and error.errno in NOT_WRITABLE:  # Ray tries others again
                raise write_error(str(error.filename or "a file"), error) from error
            raise
        self.record.close(finished=self.step == self.total_steps)
        return RunResult(self.step, self.total_steps, self.record.values)

    def _run(self) -> None:
        if self.config.encoder.compile:
            say("the network is compiled at its first use, which takes a minute or more")
        if self.step == 0:
            self._evaluate()
            self._contact_sheet()
        loader = make_loader(
            self.dataset,
            start_step=self.step,
            stop_step=self.total_steps,
            num_workers=num_loader_workers(self.config.loader_workers, self.device),
            pin_memory=self.device.type == "cuda",
        )
        self.record.show_progress(self.step)
        self.record.interval.start_clock()
        compiled = not self.config.encoder.compile
        for batch in loader:
            self.record.interval.stop_waiting()
            update_threads()
            began = time.monotonic()
            point(STEP)
            self.train_step(batch)
            if not compiled:
                say(f"the first step, compiled, took {duration(time.monotonic() - began)}")
                compiled = True
            if self._due(self.config.log_every_steps) or self._epoch_ends():
                self.record.write_interval(self.step)
            self.record.show_progress(self.step)
            if self._epoch_ends(self.config.knn.every_epochs) or self.step == self.total_steps:
                self._evaluate()
                self._contact_sheet()
            if self.step == self.total_steps:
                self.record.write_verdict(self.step)
            decision = agree(self._decide() if rank() == 0 else CONTINUE)
            if decision != CONTINUE:
                self._save()
            if decision == STOP:
                break
            self.record.interval.start_waiting()

    def train_step(self, host_batch: HostBatch) -> StepResult:
        """Trains on the batch of the next global step."""
        config = self.config
        # Dropout and the like draw from the global generator: make that a function of the step.
        torch.manual_seed(int(sample_seeds(config.seed, self.step, np.array([rank()]))[0] >> 1))
        lr = cosine_lr(
            self.step,
            base_lr=config.optim.lr,
            total_steps=self.total_steps,
            warmup_steps=round(config.optim.warmup_epochs * self.steps_per_epoch),
        )
        batch = to_device(host_batch, self.device)
        # Outside autocast: a high-pass filter in bfloat16 would lose what it is to keep.
        views = self._masked_now(self.dataset.config.views)
        inputs = build_inputs(batch, views, masks=config.masks, fill=self.fill)
        if batch.weights_B is not None:
            inputs = inputs._replace(weights_B=balanced_weights(batch.weights_B))
        if self.method.backbone.sees_masks:
            inputs = join_masks(inputs, views, with_mask)
        with torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None):
            result = self.method.step(inputs, encode=self.encode, moment=self._moment())
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(result.loss).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.anchor is not None:
            self.scaler.unscale_(self.optimizer)
            result.metrics["anchor_penalty"] = self.anchor.pull()
        self.scaler.step(self.optimizer)  # not where a gradient is not finite
        self.scaler.update()
        if self.adversary is not None:
            result = self.adversary.step(
                self.method, views[0], batch, inputs, result, self.autocast
            )
        self.record.add(self.step, host_batch, result, inputs.telemetry, lr)
        self.step += 1
        return result

    def _moment(self) -> Moment:
        return Moment(self.step, self.steps_per_epoch, self.total_steps)

    def _masked_now(
        self, views: tuple[ViewSpec, ...], *, on_cpu: bool = False
    ) -> tuple[ViewSpec, ...]:
        """The views as they are masked at this step: learned masks change with their generator."""
        if self.adversary is None:
            return views
        return self.adversary.bind(views, self._moment(), on_cpu=on_cpu)

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _epoch_ends(self, every: int = 1) -> bool:
        return self._due(every * self.steps_per_epoch)

    def _decide(self) -> int:
        """Rank 0's decision after a step."""
        plan = self.config.checkpoint
        if self.mirror is not None:
            self.mirror.tick()
        if self.step == self.total_steps or self.context.stop_requested():
            return STOP
        minutes = (time.monotonic() - self._saved_at) / 60
        due = self._epoch_ends(plan.every_epochs) or self._due(plan.every_steps)
        return SAVE if due or 0 < plan.every_minutes <= minutes else CONTINUE

    def _evaluate(self) -> None:
        self.method.average_statistics()
        with self.record.interval.paused():
            figures = run_checks(
                self.config,
                self.method,
                fill=self.fill,
                device=self.device,
                autocast=self.autocast,
                step=self.step,
            )
        self.record.write_evaluation(self.step, **figures)

    def _contact_sheet(self) -> None:
        """Draws what the first samples of the next step look like to the encoders."""
        if rank() != 0 or self.step == self.total_steps:
            return
        later = f"contact_sheets/step-{self.step:08d}.png"
        path = self.config.out / (later if self.step else "contact_sheet.png")
        with self.record.interval.paused():
            views = self._masked_now(shown_views(self.config), on_cpu=True)
            write_contact_sheet(path, self.dataset, self.config, step=self.step, views=views)
        self.record.show(self.step, "masks", path)

    def _save(self) -> None:
        self.method.average_statistics()
        self.record.settle()
        self._saved_at = time.monotonic()
        if rank() != 0:
            return
        state = {"step": self.step, "method": self.method.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "record": self.record.state_dict()}
        if self.adversary is not None:
            state["adversary"] = self.adversary.state_dict(self._moment())
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        if self.mirror is not None:
            self.mirror.end()
        # The checkpoint comes last: a run that has its last one writes nothing any more.
        self._export(self.config.out / "backbone")
        self.store.save(self.step, state, self.config.to_json(), self._export)
        if self.mirror is not None:
            self.mirror.begin()

    def _export(self, folder: Path) -> None:
        config, size = self.config, self.config.views.size
        provenance = {"data_digest": self.info.plan_digest, "config": config.to_json()} | {
            "step": self.step,
            "epochs": self.step / self.steps_per_epoch,
        }
        if self.adversary is not None:
            write_generator(folder.parent, self.adversary.generator, provenance)
        export_backbone(
            folder,
            self.method.backbone,
            config.encoder,
            view_size=size,
            high_pass=scaled_kernel(*HIGH_PASS_AT_224, size) if self.fill.high_pass else None,
            provenance=provenance,
            pixels=self.info.pixels,
        )

    def _resume(self) -> int:
        checkpoint = self.store.latest()
        if checkpoint is None:
            if (run := self.config.start_from) is not None:
                self.method.load_state_dict(first_state(run, self.device))
            return 0
        state = load_state(checkpoint, self.device)
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.record.load_state_dict(state["record"])
        if self.adversary is not None:
            self.adversary.load_state_dict(state["adversary"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if rank() == 0:
            say(f"resuming after step {state['step']} of {self.config.place}")
        return int(state["step"])
