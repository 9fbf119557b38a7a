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

from pipeline.core.errors import InputError, JobError
from pipeline.shardset.manifest import load_dataset_info
from training.config.file import CONFIG_FILE
from training.config.pretrain import PretrainConfig
from training.config.resources import Resources
from training.core.threads import threads_set_by_user
from training.engine.preflight import steps_per_epoch
from training.engine.result import RunResult
from training.ray.launch import launch
from training.ray.workers import started_by_ray
from training.record.metrics import read_metrics
from training.record.mirror import STOP_FILE
from training.sweep.config import run_folder, trial_config

POLL_SECONDS = 1.0
OUTER_BYTES = 1 << 20
NUMBER = "trial"
"""The key of a trial's number in its Tune configuration, if it has one."""


def evaluations(out: Path, after: int = 0) -> dict[int, dict[str, float]]:
    """The evaluations in a run's record after a global step, by step, ascending.

    Each has the latest value of every figure and the latest training loss. Those of the untrained
    network, at step 0, are left out.
    """
    found: dict[int, dict[str, float]] = {}
    latest: dict[str, float] = {}
    for entry in read_metrics(out):
        step, kind = int(entry.pop("step")), entry["kind"]
        latest |= {
            name: value
            for name, value in entry.items()
            if step > 0 and not isinstance(value, str) and (kind == "eval" or name == "loss")
        }
        if kind == "eval" and step > max(after, 0):
            found[step] = dict(latest)
    return found


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
    # Asked here: a trial's own process is Ray's.
    threads = None if started_by_ray() else threads_set_by_user()
    parts = {"base": config, "resources": workers, "threads": threads}
    return type("Pretraining", (_Pretraining,), parts)


class _Pretraining(tune.Trainable):
    """A trial: runs a pretraining in a thread and reports what its record says."""

    base: PretrainConfig
    resources: Resources | None
    threads: int | None

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """A trial's own process only waits: it takes some memory, because Tune wants something."""
        return tune.PlacementGroupFactory([{"memory": OUTER_BYTES}])

    def setup(self, config: dict[str, Any]) -> None:
        """Start or resume the run."""
        trial = config.get(NUMBER, self.trial_id)
        point = {name: value for name, value in config.items() if name != NUMBER}
        self._out = run_folder(self.base.out, trial)
        self._started, self._failed = time.monotonic(), False
        self._step, self._total, self._steps = 0, 0, 1
        self._values: dict[str, float] = {}
        self._run: Future[RunResult] = Future()
        try:
            run = trial_config(self.base, trial, point)
            self._steps = steps_per_epoch(run, load_dataset_info(run.shards))
        except InputError as error:
            self._run.set_exception(error)
            return
        self._total = run.epochs * self._steps
        # The latest evaluation of an earlier start is reported again: the scheduler is a new one.
        self._step = [0, 0, *evaluations(self._out)][-2]
        pool = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._run = pool.submit(self._launch, run)
        pool.shutdown(wait=False)

    def _launch(self, run: PretrainConfig) -> RunResult:
        ran = launch(run, self.resources, threads=self.threads)
        if not ran.finished and not (self.base.out / STOP_FILE).exists():
            raise InputError(
                f"the run was asked to stop after {ran.step} of {ran.total_steps} steps"
            )
        return ran

    def step(self) -> dict[str, Any]:
        """Wait for the next evaluation, or for the end of the run.

        The last evaluation is reported with the end, so that no scheduler stops a complete trial.
        A failure is reported first and raised next: Tune keeps reports, but not exceptions.
        """
        ended = False
        while not ended:
            ended = self._ended()
            for step, values in evaluations(self._out, self._step).items():
                self._step, self._values = step, values
                if step < self._total:
                    return self._report()
            if (self.base.out / STOP_FILE).exists():
                self._ask_to_stop()
        if (error := self._run.exception()) is not None:
            words = " ".join(str(error).split())
            if not isinstance(error, JobError):
                words = f"{type(error).__name__}: {words[-500:]}"
            if self._failed:
                raise InputError(words)
            self._failed = True
            return self._report(message=words)
        ran = self._run.result()
        self._step = ran.step
        if not ran.finished:
            time.sleep(POLL_SECONDS)
        return self._report(finished=ran.finished, done=ran.finished, interrupted=not ran.finished)

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

    def _report(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401
        """The latest figures, also apart under ``values``."""
        epochs, seconds = self._step / self._steps, time.monotonic() - self._started
        times = {"epochs": epochs, "seconds": seconds, "finished": False}
        return {**self._values, "values": self._values, **times, **more}
