"""A pretraining as a Ray Tune trainable, also for a ``Tuner`` of your own (``README.md``).

Every trial is an ordinary run, by Ray Train, in ``config.out / "trials"``. It resumes from the
checkpoints of its run, not from Tune's: a trial that is started again, by ``Tuner.restore`` or
after a failure, continues where it was, and one whose run is complete trains nothing.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ray import tune
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.core.errors import InputError, JobError
from pipeline.shardset.manifest import load_dataset_info
from training.config.file import CONFIG_FILE
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources
from training.engine.preflight import steps_per_epoch
from training.engine.result import RunResult
from training.ray.context import STOP_FILE
from training.ray.launch import launch
from training.ray.private import PlacementGroupID
from training.ray.workers import PLACEMENT_GROUP_FILE
from training.record.metrics import read_metrics
from training.sweep.config import TRIALS_FOLDER, trial_config

POLL_SECONDS = 1.0
OUTER_BYTES = 1 << 20
NUMBER = "trial"
"""The key of a trial's number in its Tune configuration, if it has one."""


def evaluations(out: Path, after: int = 0) -> dict[int, dict[str, float]]:
    """The figures of the evaluations in a run's record after a global step, by step, ascending.

    Each has the latest training loss. The untrained network's, at step 0, are left out.
    """
    found: dict[int, dict[str, float]] = {}
    loss: dict[str, float] = {}
    for entry in read_metrics(out):
        step = int(entry.pop("step"))
        numbers = {name: value for name, value in entry.items() if not isinstance(value, str)}
        if entry["kind"] == "eval":
            found[step] = found.get(step, {}) | loss | numbers
        elif "loss" in numbers:
            loss = {"loss": numbers["loss"]}
    return {step: found[step] for step in sorted(found) if step > max(after, 0)}


def free_placement_group(out: Path) -> None:
    """Remove the placement group of a trial whose process died, and with it its workers.

    Ray would keep it until the whole job ends.
    """
    path = out / PLACEMENT_GROUP_FILE
    if path.exists():
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(path.read_text()))))


def trainable(config: PretrainConfig, workers: Resources | None = None) -> type[tune.Trainable]:
    """A class for ``tune.Tuner`` whose trials are pretrainings.

    A trial's Tune configuration gives values to fields by dotted name (``optim.lr``). Each report
    has the figures of an evaluation (``knn``, ``heldout_loss``, ``loss``, ...), ``epochs``,
    ``seconds`` since the start, and ``finished``.

    Args:
        config: the base configuration; its ``out`` is the folder of all trials.
        workers: the workers of each trial, of which Tune knows nothing: ``max_concurrent_trials``
            must be a number of trials that the cluster holds. None means all of the cluster, for
            one trial at a time.
    """

    class Pretraining(_Pretraining):
        base, resources = config, workers

    return Pretraining


class _Pretraining(tune.Trainable):
    """A trial: runs a pretraining in a thread and reports what its record says."""

    base: PretrainConfig
    resources: Resources | None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A trial's own process only waits: it takes some memory, because Tune wants something."""
        return tune.PlacementGroupFactory([{"memory": OUTER_BYTES}])

    def setup(self, config: dict[str, Any]) -> None:
        """Start or resume the run."""
        point = dict(config)
        name = f"{point.pop(NUMBER):04d}" if NUMBER in point else self.trial_id
        self._out = self.base.out / TRIALS_FOLDER / name
        self._started, self._failed = time.monotonic(), False
        self._step, self._total, self._steps = 0, 0, 1
        self._values: dict[str, float] = {}
        self._run: Future[RunResult] = Future()
        try:
            run = trial_config(self.base, name, point)
            self._steps = steps_per_epoch(run, load_dataset_info(run.shards))
        except InputError as error:
            self._run.set_exception(error)
            return
        self._total = run.epochs * self._steps
        # The latest evaluation of an earlier start is reported again: the scheduler is a new one.
        for step, values in list(evaluations(self._out).items())[:-1]:
            self._take(step, values)
        pool = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._run = pool.submit(launch, run, self.resources)
        pool.shutdown(wait=False)

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or for the end of the run.

        The last evaluation is reported with the end, so that no scheduler stops a complete trial.
        A failure is reported first and raised next: Tune keeps reports, but not exceptions.
        """
        ended = False
        while not ended:
            ended = self._ended()
            for step, values in evaluations(self._out, self._step).items():
                self._take(step, values)
                if step < self._total:
                    return self._report(step)
            if (self.base.out / STOP_FILE).exists():
                self._ask_to_stop()
        message = self._message()
        if self._failed:
            raise InputError(message)
        if message:
            self._failed = True
            step = self._step if self._run.exception() else self._run.result().step
            return self._report(step, message=message)
        ran = self._run.result()
        if not ran.finished:
            time.sleep(POLL_SECONDS)
        ends = {"finished": ran.finished, "done": ran.finished, "interrupted": not ran.finished}
        return self._report(ran.step, **ends)

    def cleanup(self) -> None:
        """Ask the run to write a checkpoint and end, and wait until its workers are gone."""
        while not self._ended():
            self._ask_to_stop()

    def _ended(self) -> bool:
        return bool(wait([self._run], timeout=POLL_SECONDS).done)

    def _ask_to_stop(self) -> None:
        """Ask a run that has begun; one that has not would not hear it, and is asked again."""
        if (self._out / CONFIG_FILE).exists() and not self._run.done():
            (self._out / STOP_FILE).touch()

    def _take(self, step: int, values: dict[str, float]) -> None:
        self._step = step
        self._values |= values

    def _report(self, step: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        values, epochs = dict(self._values), step / self._steps
        seconds = time.monotonic() - self._started
        times = {"epochs": epochs, "seconds": seconds, "finished": False}
        return {**values, "values": values, **times, **more}

    def _message(self) -> str:
        """Why the run failed, in one line; empty if it did not."""
        error = self._run.exception()
        if error is None:
            ran = self._run.result()
            if ran.finished or (self.base.out / STOP_FILE).exists():
                return ""
            return f"the run was asked to stop after {ran.step} of {ran.total_steps} steps"
        words = " ".join(str(error).split())
        return words if isinstance(error, JobError) else f"{type(error).__name__}: {words[-500:]}"
