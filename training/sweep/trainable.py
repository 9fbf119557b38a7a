"""A pretraining as a Ray Tune trainable, also for a ``Tuner`` of your own.

    tuner = tune.Tuner(
        trainable(config),
        param_space={"optim.lr": tune.loguniform(1e-3, 1e-1)},
        tune_config=tune.TuneConfig(metric="knn", mode="max", max_concurrent_trials=1),
    )

Every trial is an ordinary run, by Ray Train, in ``config.out / "trials"``. It resumes from the
checkpoints of its run, not from Tune's: a trial that is started again, by ``Tuner.restore`` or
after a failure, continues where it was, and one whose run is complete trains nothing.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
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
from training.ray.launch import STOP_FILE, launch
from training.ray.private import PlacementGroupID
from training.ray.workers import PLACEMENT_GROUP_FILE
from training.record.metrics import read_metrics
from training.sweep.config import TRIALS_FOLDER, trial_config

POLL_SECONDS = 1.0
OUTER_BYTES = 1 << 20
NUMBER = "trial"
"""The key of a trial's number in its Tune configuration, where there is one."""


@dataclass(frozen=True)
class Evaluation:
    """Figures of a run after some steps."""

    step: int
    values: dict[str, float]


def evaluations(out: Path, after: int = 0) -> list[Evaluation]:
    """The evaluations in a run's record after a global step, each with the latest training loss.

    The evaluation of the untrained network, at step 0, is left out.
    """
    found: dict[int, dict[str, float]] = {}
    loss: dict[str, float] = {}
    for entry in read_metrics(out):
        numbers = {
            name: float(value)
            for name, value in entry.items()
            if name != "step" and not isinstance(value, str)
        }
        if entry["kind"] == "eval":
            step = int(entry["step"])
            found[step] = {**found.get(step, {}), **loss, **numbers}
        elif "loss" in numbers:
            loss = {"loss": numbers["loss"]}
    return [Evaluation(step, found[step]) for step in sorted(found) if step > max(after, 0)]


def run_name(trial_id: str, values: Mapping[str, Any]) -> str:
    """The name of a trial's folder: its number where its configuration has one, else Tune's id."""
    return f"{values[NUMBER]:04d}" if NUMBER in values else trial_id


def free_placement_group(out: Path) -> None:
    """Removes the placement group of a trial whose process died, and with it its workers.

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

    Tune knows nothing of the workers' resources, so ``max_concurrent_trials`` must be a number of
    trials that the cluster holds.

    Args:
        config: the base configuration; its ``out`` is the folder of all trials.
        workers: the workers of each trial; None means all of the cluster, for one trial at a time.
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
        """Starts or resumes the run."""
        name = run_name(self.trial_id, config)
        self._out = self.base.out / TRIALS_FOLDER / name
        self._started, self._failed = time.monotonic(), False
        self._step = self._total = 0
        self._values: dict[str, float] = {}
        self._run: Future[RunResult] = Future()
        try:
            values = {field: value for field, value in config.items() if field != NUMBER}
            run = trial_config(self.base, name, values)
            self._steps = steps_per_epoch(run, load_dataset_info(run.shards))
            self._total = run.epochs * self._steps
        except InputError as error:
            self._run.set_exception(error)
            return
        # The latest evaluation of an earlier start is reported again: the scheduler is a new one.
        for evaluation in evaluations(self._out)[:-1]:
            self._take(evaluation)
        pool = ThreadPoolExecutor(1, thread_name_prefix="run")
        self._run = pool.submit(launch, run, self.resources)
        pool.shutdown(wait=False)

    def step(self) -> dict[str, Any]:
        """Waits for the next evaluation, or for the end of the run."""
        while not self._ended():
            for evaluation in evaluations(self._out, self._step):
                if evaluation.step < self._total:  # the last one is reported with the run's end
                    return self._report(evaluation)
            if (self.base.out / STOP_FILE).exists():
                self._ask_to_stop()
        news = evaluations(self._out, self._step)
        if news and (self._run.exception() or news[0].step < self._total):
            return self._report(news[0])
        for evaluation in news:
            self._take(evaluation)
        message = self._message()
        if self._failed:
            raise InputError(message)
        if message:  # Tune keeps the last report of a trial, but not its exception
            self._failed = True
            return self._report() | {"message": message}
        finished = self._run.result().finished
        if not finished:
            time.sleep(POLL_SECONDS)
        end = {"finished": finished, "done": finished, "interrupted": not finished}
        return self._report() | end

    def cleanup(self) -> None:
        """Asks the run to write a checkpoint and end, and waits until its workers are gone."""
        while not self._ended():
            self._ask_to_stop()

    def _ended(self) -> bool:
        return bool(wait([self._run], timeout=POLL_SECONDS).done)

    def _ask_to_stop(self) -> None:
        """Asks a run that has begun; one that has not would not hear it, and is asked again."""
        if (self._out / CONFIG_FILE).exists():
            (self._out / STOP_FILE).touch()

    def _take(self, evaluation: Evaluation) -> None:
        self._step = evaluation.step
        self._values |= evaluation.values

    def _report(self, evaluation: Evaluation | None = None) -> dict[str, Any]:
        """The figures of an evaluation; without one, the latest figures at the run's end."""
        step = self._step
        if evaluation is not None:
            self._take(evaluation)
            step = evaluation.step
        elif self._run.exception() is None:
            step = self._run.result().step
        return {
            **self._values,
            "values": dict(self._values),
            "epochs": step / self._steps if self._total else 0.0,
            "seconds": time.monotonic() - self._started,
            "finished": False,
        }

    def _message(self) -> str:
        """Why the run failed, in one line; empty where it did not."""
        error = self._run.exception()
        if error is None:
            ran = self._run.result()
            if ran.finished or (self.base.out / STOP_FILE).exists():
                return ""
            return f"the run was asked to stop after {ran.step} of {ran.total_steps} steps"
        words = " ".join(str(error).split())
        return words if isinstance(error, JobError) else f"{type(error).__name__}: {words[-500:]}"
