"""Tune's schedulers: which trials are stopped early."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from training.sweep.config import Sweep


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
