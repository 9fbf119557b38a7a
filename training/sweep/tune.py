"""A sweep on Ray Tune: each trial is a Ray Train run by the driver that a single run has.

Tune starts and ends the trials' processes and takes their reports. What happens is in the sweep's
own ledger, which knows after a SIGKILL what ``Tuner.restore`` does not: the scheduler's state, and
that a trial goes on from its run's checkpoints and not from one of Tune's.

A trial that is stopped is asked to end, and not killed: it writes a checkpoint, its workers leave,
and Ray Train removes their placement group. Of a killed one the placement group would live as long
as the sweep, and keep its cores from the others.
"""

import json
import logging
import os
import time
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray._raylet import PlacementGroupID
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import load_dataset_info
from training.config.pretrain import CONFIG_FILE
from training.config.resources import Resources
from training.engine.loop import RunResult
from training.engine.preflight import steps_per_epoch
from training.engine.stopping import asked_to_stop
from training.ray.launch import PLACEMENT_GROUP_FILE, STOP_FILE, launch
from training.sweep.config import Sweep
from training.sweep.director import Director
from training.sweep.fits import Share
from training.sweep.trial import follow

OUTER_BYTES = 1 << 20
"""What a trial's own process takes of the cluster: a little memory, since Tune wants something,
and no core, since it only waits."""


class AshaJudge:
    """Tune's asynchronous successive halving, told of trials by their numbers.

    Args:
        sweep: objective, grace and reduction.
        max_epochs: of the longest trial.
    """

    def __init__(self, sweep: Sweep, max_epochs: int) -> None:
        self._asha = ASHAScheduler(
            time_attr="epochs",
            metric="objective",
            mode=sweep.mode,
            max_t=max_epochs,
            grace_period=sweep.grace_epochs,
            reduction_factor=sweep.reduction_factor,
        )
        self._known: dict[int, Any] = {}
        self._nobody: Any = None
        """In place of Tune's controller, which ASHA is given and does not use."""

    def falls_behind(self, number: int, epochs: float, objective: float) -> bool:
        """Takes in how a trial stands; whether it is to be stopped."""
        if number not in self._known:
            # ASHA asks a trial for nothing but its name, and one that goes on keeps it.
            self._known[number] = SimpleNamespace(trial_id=str(number))
            self._asha.on_trial_add(self._nobody, self._known[number])
        result = {"epochs": epochs, "objective": objective}
        decision = self._asha.on_trial_result(self._nobody, self._known[number], result)
        return bool(decision == TrialScheduler.STOP)


def judge_of(sweep: Sweep) -> AshaJudge | None:
    """Who decides which trials are stopped; None: nobody."""
    if sweep.scheduler == "none":
        return None
    # Of an epoch that is swept, the longest.
    configs = [sweep.trial_config(n, point) for n, point in enumerate(sweep.points())]
    return AshaJudge(sweep, max(config.epochs for config in [sweep.base, *configs]))


class _Source(Searcher):
    """Tune's questions for the next trial go to the director."""

    def __init__(self, director: Director) -> None:
        super().__init__()
        self._director = director

    def suggest(self, trial_id: str) -> Any:  # noqa: ANN401  (Ray names only one of the kinds)
        """The next trial's number and, as JSON, its point."""
        following = self._director.next()
        if following is None:
            return Searcher.FINISHED
        number, point = following
        return {"number": number, "point": json.dumps(point)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the director has heard it."""


class _Reports(FIFOScheduler):
    """Tune's news of trials go to the director, which may have a trial's run asked to end."""

    def __init__(self, director: Director) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._director = director
        self._over: set[int] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ANN401
        """Takes in a report, or a trial's last words; Tune repeats these when the trial leaves."""
        number = int(trial.config["number"])
        said = json.loads(result["said"]) if "said" in result else None
        if said is None or number in self._over:
            return str(TrialScheduler.CONTINUE)
        if "finished" in said:
            self._over.add(number)
            self._director.end(number, **said)
        elif self._director.report(number, **said) or self._director.closing:
            request_stop(self._director, number)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401
        """A trial's process has died: what its workers held is freed here."""
        number = int(trial.config["number"])
        _free(self._director, number)
        if number not in self._over:
            self._over.add(number)
            self._director.end(
                number, finished=False, epochs=None, seconds=None, message="its process died"
            )


def run_trials(sweep: Sweep, director: Director, share: Share) -> None:
    """Runs what is left of a sweep on the Ray that is running.

    Returns when all trials have ended, or when SIGTERM or SIGINT has stopped the sweep; the
    director's ledger says which.

    Args:
        sweep: what is swept.
        director: its state.
        share: trials at once, and the resources of each.
    """
    trainable = tune.with_resources(
        partial(_trial, sweep=sweep, resources=share.resources),
        tune.PlacementGroupFactory([{"memory": OUTER_BYTES}]),
    )
    # What Tune would log of a trial, the trial's own run logs; what it would print, the director.
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would kill the trials
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(_Source(director), max_concurrent=share.trials),
            scheduler=_Reports(director),
            num_samples=director.num_left,
            trial_dirname_creator=lambda trial: f"trial-{trial.config['number']:04d}",
        ),
        run_config=tune.RunConfig(
            name=datetime.now(UTC).strftime("start-%Y%m%d-%H%M%S-%f"),
            storage_path=str(sweep.folder / "ray"),
            verbose=0,
        ),
    )
    with asked_to_stop(partial(_close, director)):
        tuner.fit()


def _trial(given: dict[str, Any], *, sweep: Sweep, resources: Resources) -> None:
    """A trial's own process: launches the run, and hands on what its record says."""
    config = sweep.trial_config(int(given["number"]), json.loads(given["point"]))
    steps = steps_per_epoch(config, load_dataset_info(config.shards))
    started, ended = time.monotonic(), list[RunResult]()

    def tell(**said: Any) -> None:  # noqa: ANN401  (JSON values)
        said["seconds"] = time.monotonic() - started
        tune.report({"said": json.dumps(said)})

    try:
        for said in follow(lambda: ended.append(launch(config, resources)), config.out):
            tell(epochs=said.step / steps, values=said.values)
    except Exception as error:
        tell(finished=False, epochs=None, message=_in_a_line(error))
    else:
        tell(finished=ended[0].finished, epochs=ended[0].step / steps)


def _in_a_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    if isinstance(error, InputError):
        return words
    return f"{type(error).__name__}: {words[-500:]}"


def request_stop(director: Director, number: int) -> None:
    """Asks a trial's run to write a checkpoint and end.

    One whose run has not begun hears nothing, and is asked again when it reports.
    """
    trial = director.ledger.trials[number]
    out = director.sweep.trial_config(number, trial.point).out
    if (out / CONFIG_FILE).exists():
        (out / STOP_FILE).touch()


def _free(director: Director, number: int) -> None:
    """Removes the placement group of a trial whose process died, and with it its workers."""
    path = director.sweep.folder / director.ledger.trials[number].run / PLACEMENT_GROUP_FILE
    if path.exists():
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(path.read_text()))))


def _close(director: Director) -> None:
    """Starts no more trials, and asks those that run to write a checkpoint and end."""
    director.closing = True
    for number in director.running:
        request_stop(director, number)
