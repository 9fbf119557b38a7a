"""Run a sweep on Ray Tune: ``Tuner.fit``, ``Tuner.restore``, and how far the trials are.

Tune's state in ``tune/`` below the sweep's folder lists the trials, and the next trial follows from
this list alone. ``README.md`` in this folder says what a SIGKILL loses.
"""

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher, SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.util.placement_group import PlacementGroup, remove_placement_group

from pipeline.core.progress import Standing, say, show
from training.config.resources import Resources
from training.engine.stopping import asked_to_stop
from training.ray.private import PlacementGroupID
from training.ray.workers import PLACEMENT_GROUP_FILE
from training.record.mirror import STOP_FILE
from training.sweep.config import OBJECTIVES, Sweep
from training.sweep.results import Status, Trial, write_table
from training.sweep.space import Domain, shown
from training.sweep.trainable import NUMBER, trainable

TUNE_FOLDER = "tune"
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs have records of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would kill the trials after ten seconds
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails early has no objective
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds of Tune's state that a SIGKILL loses
    "RAY_AIR_NEW_OUTPUT": "0",
}
STARTUP_TRIALS = 8
"""Optuna's first trials, which are random: its model learns nothing from fewer."""


def run_trials(
    sweep: Sweep, at_once: int, each: Resources, *, retry_failed: bool = False
) -> list[Trial]:
    """Run what is left of a sweep, whose ``sweep.json`` is written, on the Ray that is running.

    Returns all trials when they have ended, or when SIGTERM or SIGINT has stopped the sweep.
    """
    os.environ |= ENVIRONMENT
    stop_file, path = sweep.folder / STOP_FILE, sweep.folder / TUNE_FOLDER
    stop_file.unlink(missing_ok=True)
    pretraining, points = trainable(sweep.base, each), _Points(sweep, at_once)
    before = read_trials(sweep.folder)
    # This writes the settings that Tuner.restore reads: those of this start, not of the first.
    tuner = tune.Tuner(
        pretraining,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_NextTrials(points),
            scheduler=scheduler_of(sweep),
            trial_dirname_creator=lambda trial: f"{trial.config[NUMBER]:04d}",
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(sweep.folder),
            callbacks=[_Progress(sweep, points, before)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    if any(path.glob("experiment_state-*.json")):
        tuner = tune.Tuner.restore(str(path), pretraining, resume_errored=retry_failed)
    with asked_to_stop(stop_file.touch):
        tuner.fit()
    stop_file.unlink(missing_ok=True)
    return read_trials(sweep.folder)


def read_trials(folder: Path) -> list[Trial]:
    """The trials of a sweep by Tune's state; none if there is no whole state."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        return _states(tune.ExperimentAnalysis(str(folder / TUNE_FOLDER)).trials)
    except (ValueError, OSError):  # no state; or a kill has cut it off while it was copied
        return []


def _states(trials: Sequence[TuneTrial]) -> list[Trial]:
    return sorted(map(_state_of, trials), key=lambda trial: trial.number)


def _state_of(trial: TuneTrial) -> Trial:
    # `Trial.last_result` would ask the process of a trial that has reported nothing.
    last: Mapping[str, Any] = trial.run_metadata.last_result
    status: Status = "running"
    if trial.status == TuneTrial.ERROR:
        status = "failed"
    elif last.get("done"):
        status = "finished" if last["finished"] else "stopped"
    return Trial(
        trial.config[NUMBER],
        {name: value for name, value in trial.config.items() if name != NUMBER},
        status,
        **{name: last[name] for name in ("epochs", "seconds", "values") if name in last},
        message=last.get("message", "its process died") if status == "failed" else None,
    )


class _Points(Searcher):
    """The point of the next trial, from a list or from Optuna, and the trial's number.

    Tune's own limits would be restored as of the first start, and its own count may be outdated.
    """

    def __init__(self, sweep: Sweep, concurrent: int) -> None:
        super().__init__()
        self.trials: Sequence[TuneTrial] = ()
        """Tune's list of all trials, which grows."""
        self._sweep, self._points, self._concurrent = sweep, sweep.points(), concurrent
        self._optuna = _optuna(sweep) if sweep.search == "optuna" else None

    def all_started(self) -> bool:
        stopped = (self._sweep.folder / STOP_FILE).exists()
        return stopped or len(self.trials) >= self._sweep.num_trials

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """None while as many run as fit."""
        number = len(self.trials)
        if sum(not trial.is_finished() for trial in self.trials) >= self._concurrent:
            return None
        point = self._optuna.suggest(trial_id) if self._optuna else self._points[number]
        return {NUMBER: number, **(point or {})}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self._optuna is not None:
            with suppress(KeyError):  # a trial that started after the restored state was saved
                self._optuna.on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # a list has no state
        if self._optuna is not None:
            self._optuna.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        if self._optuna is not None:
            self._optuna.restore(checkpoint_path)


def _optuna(sweep: Sweep) -> OptunaSearch:
    import optuna  # an extra

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
        if not domain.is_interval:
            return optuna.distributions.CategoricalDistribution(domain.values)
        low, high = map(float, domain.values)
        log = domain.kind == "log_uniform"
        if domain.whole:
            return optuna.distributions.IntDistribution(int(low), int(high), log=log)
        return optuna.distributions.FloatDistribution(low, high, log=log)

    return OptunaSearch(
        {name: distribution(domain) for name, domain in sweep.space.items()},
        metric=sweep.objective,
        mode=OBJECTIVES[sweep.objective],
        sampler=optuna.samplers.TPESampler(seed=sweep.search_seed, n_startup_trials=STARTUP_TRIALS),
    )


class _NextTrials(SearchGenerator):
    """Tune's next trial, which the points alone decide."""

    searcher: _Points

    def is_finished(self) -> bool:
        return self.searcher.all_started()


class _Scheduler(ASHAScheduler):
    """Has Tune save that a trial's process died, which Tune itself leaves out (Ray 2.60)."""

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:  # noqa: ANN401
        tune_controller._mark_trial_to_checkpoint(trial)
        super().on_trial_error(tune_controller, trial)


def scheduler_of(sweep: Sweep) -> TrialScheduler:
    """Asynchronous successive halving; a sweep without it lets all trials train to their end."""
    longest = max(map(sweep.epochs_of, [{}, *sweep.points()]))
    return _Scheduler(
        time_attr="epochs",
        metric=sweep.objective,
        mode=OBJECTIVES[sweep.objective],
        max_t=longest,
        grace_period=longest if sweep.scheduler == "none" else sweep.grace_epochs,
        reduction_factor=sweep.reduction_factor,
    )


class _Progress(tune.Callback):
    """Says how the trials stand, keeps the table, and ends a sweep whose runs have all stopped.

    `before` is the trials as of the start of this driver.
    """

    def __init__(self, sweep: Sweep, points: _Points, before: Sequence[Trial]) -> None:
        self._sweep, self._points = sweep, points
        self._before = {trial.number: trial for trial in before}
        self._changed = False

    def on_step_begin(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        self._points.trials = info["trials"]

    def on_step_end(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        if self._changed:
            self._changed = False
            self._show(_states(info["trials"]))
        if (self._sweep.folder / STOP_FILE).exists():
            running = [trial for trial in info["trials"] if trial.status == TuneTrial.RUNNING]
            if all(trial.run_metadata.last_result.get("interrupted") for trial in running):
                os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own way to end with trials left

    def on_trial_start(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        state = _state_of(info["trial"])
        how = f"resumes after {state.epochs:g} epochs" if state.seconds else "starts"
        say(f"trial {state.number} {how}: {shown(state.point)}")
        self._changed = True

    def on_trial_result(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        state, result = _state_of(info["trial"]), info["result"]
        if before := self._before.get(state.number):
            result["seconds"] += before.seconds
        if result["epochs"] > state.epochs and not result["done"]:
            words = self._objective(result.get("values", {}))
            say(f"trial {state.number} epoch {result['epochs']:g}{words}")
            self._changed = True

    def on_trial_complete(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        trials, state = _states(info["trials"]), _state_of(info["trial"])
        with suppress(OSError):  # Tune would take it for the trial's failure; it is written again
            write_table(self._sweep, trials)
        self._changed = True
        done, why = sum(t.ended for t in trials), f" ({state.message})" if state.message else ""
        say(
            f"trial {state.number} {state.status} after {state.epochs:g} epochs, "
            f"{state.seconds:.0f} s{self._objective(state.values)}{why}: {done} done, "
            f"{self._sweep.num_trials - done} left"
        )

    def on_trial_error(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        path = self._sweep.folder / _state_of(info["trial"]).run / PLACEMENT_GROUP_FILE
        if path.exists():  # Ray would keep what the workers of a dead process held to the job's end
            group = PlacementGroupID(bytes.fromhex(path.read_text()))
            remove_placement_group(PlacementGroup(group))
        self.on_trial_complete(**info)

    def _objective(self, values: Mapping[str, float]) -> str:
        value = values.get(self._sweep.objective)
        return "" if value is None else f", {self._sweep.objective} {value:.4g}"

    def _show(self, trials: Sequence[Trial]) -> None:
        """Show the epochs that are over; those that a stopped trial saves are over, too."""
        sweep = self._sweep
        later = sweep.points()[len(trials) :] or [{}] * (sweep.num_trials - len(trials))
        total = sum(sweep.epochs_of(point) for point in [*(t.point for t in trials), *later])
        done = sum(sweep.epochs_of(t.point) if t.ended else int(t.epochs) for t in trials)
        before = sum(int(trial.epochs) for trial in self._before.values())
        given = done - sum(int(trial.epochs) for trial in trials) + before
        ended = sum(trial.ended for trial in trials)
        note = f"{ended} of {sweep.num_trials} trials ended, {len(trials) - ended} running"
        show(Standing(work="sweep", done=done, total=total, unit="epochs", given=given, note=note))
