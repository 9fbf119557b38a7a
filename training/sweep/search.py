"""What Tune runs next and what it stops early: points from a list or from Optuna, and ASHA."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher, SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from training.ray.context import STOP_FILE
from training.sweep.config import Sweep
from training.sweep.space import Interval, Values
from training.sweep.trainable import NUMBER

STARTUP_TRIALS = 8
"""Optuna's first trials, which are random: its model learns nothing from fewer."""


class Points(Searcher):
    """The point of the next trial, from a list or from Optuna, and the trial's number."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self.trials: Sequence[Trial] = ()
        """Tune's list of all trials, which grows."""
        self._points = sweep.points()
        self._optuna = _optuna(sweep) if sweep.search == "optuna" else None

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next trial's configuration."""
        number = len(self.trials)
        point = self._optuna.suggest(trial_id) if self._optuna else self._points[number]
        return {NUMBER: number, **(point or {})}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells Optuna, which wants a trial's last report only."""
        if self._optuna is not None:
            with suppress(KeyError):  # a trial that started after the restored state was saved
                self._optuna.on_trial_complete(trial_id, result, error)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Does nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Saves Optuna's study; a list has no state."""
        Path(checkpoint_path).touch()
        if self._optuna is not None:
            self._optuna.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """Restores Optuna's study."""
        if self._optuna is not None:
            self._optuna.restore(checkpoint_path)


def _optuna(sweep: Sweep) -> OptunaSearch:
    import optuna  # an extra

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def distribution(domain: Values | Interval) -> optuna.distributions.BaseDistribution:
        if isinstance(domain, Values):
            return optuna.distributions.CategoricalDistribution(domain.values)
        log = domain.kind == "log_uniform"
        if domain.whole:
            return optuna.distributions.IntDistribution(*domain.whole_ends, log=log)
        return optuna.distributions.FloatDistribution(domain.low, domain.high, log=log)

    return OptunaSearch(
        {name: distribution(domain) for name, domain in sweep.space.items()},
        metric=sweep.objective,
        mode=sweep.mode,
        sampler=optuna.samplers.TPESampler(seed=sweep.search_seed, n_startup_trials=STARTUP_TRIALS),
    )


class NextTrials(SearchGenerator):
    """Tune's next trial, while there are any and fewer run than fit.

    Tune's own limit would be restored as of the first start, and its own count may be outdated.
    """

    def __init__(self, points: Points, sweep: Sweep, concurrent: int) -> None:
        super().__init__(points)
        self._points, self._sweep, self._concurrent = points, sweep, concurrent

    def next_trial(self) -> Trial | None:
        """The next trial; None while there is none."""
        if sum(not trial.is_finished() for trial in self._points.trials) >= self._concurrent:
            return None
        following: Trial | None = super().next_trial()  # type: ignore[no-untyped-call]
        return following

    def is_finished(self) -> bool:
        """Whether no more trials start."""
        all_started = len(self._points.trials) >= self._sweep.num_trials
        return all_started or (self._sweep.folder / STOP_FILE).exists()


class _SavesErrors:
    """Has Tune save that a trial failed.

    Tune itself leaves out a trial whose process died (Ray 2.60): in its saved state the trial would
    still be running.
    """

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:  # noqa: ANN401
        """Marks the trial's state as to be saved."""
        tune_controller._mark_trial_to_checkpoint(trial)
        super().on_trial_error(tune_controller, trial)  # type: ignore[misc]


class _NoneStopped(_SavesErrors, FIFOScheduler):
    """Every trial runs to its end."""


class _Asha(_SavesErrors, ASHAScheduler):
    """Trials that fall behind are stopped."""


def scheduler_of(sweep: Sweep) -> TrialScheduler:
    """The scheduler that a sweep asks for: none, or asynchronous successive halving."""
    if sweep.scheduler == "none":
        return _NoneStopped()  # type: ignore[no-untyped-call]
    return _Asha(
        time_attr="epochs",
        metric=sweep.objective,
        mode=sweep.mode,
        max_t=max(map(sweep.epochs_of, [{}, *sweep.points()])),
        grace_period=sweep.grace_epochs,
        reduction_factor=sweep.reduction_factor,
    )
