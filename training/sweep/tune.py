"""Run a sweep on Ray Tune: ``Tuner.fit``, ``Tuner.restore``, and how far the trials are.

Tune's state in ``tune/`` below the sweep's folder lists the trials, and the next trial follows from
this list alone. ``README.md`` in this folder says what a SIGKILL loses.
"""

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from pipeline.core.progress import Standing, say, show
from training.engine.stopping import asked_to_stop
from training.ray.context import STOP_FILE
from training.sweep.config import Sweep
from training.sweep.preflight import Share
from training.sweep.results import Status, Trial, write_table
from training.sweep.search import NextTrials, Points, scheduler_of
from training.sweep.space import shown
from training.sweep.trainable import NUMBER, free_placement_group, trainable

TUNE_FOLDER = "tune"
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs have records of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would kill the trials after ten seconds
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that fails early has no objective
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # seconds of Tune's state that a SIGKILL loses
    "RAY_AIR_NEW_OUTPUT": "0",
}


def run_trials(
    sweep: Sweep, share: Share, description: dict[str, Any], *, retry_failed: bool = False
) -> None:
    """Run what is left of a sweep on the Ray that is running.

    Returns when all trials have ended, or when SIGTERM or SIGINT has stopped the sweep.

    Args:
        sweep: the settings.
        share: trials at once, and the resources of each.
        description: of the sweep, for the table of results.
        retry_failed: whether failed trials are resumed.
    """
    os.environ |= ENVIRONMENT
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    stop_file, path = sweep.folder / STOP_FILE, sweep.folder / TUNE_FOLDER
    stop_file.unlink(missing_ok=True)
    pretraining, points = trainable(sweep.base, share.resources), Points(sweep)
    # This writes the settings that Tuner.restore reads: those of this start, not of the first.
    tuner = tune.Tuner(
        pretraining,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=NextTrials(points, sweep, share.trials),
            scheduler=scheduler_of(sweep),
            trial_dirname_creator=_dirname,
        ),
        run_config=tune.RunConfig(
            name=TUNE_FOLDER,
            storage_path=str(sweep.folder),
            callbacks=[_Progress(sweep, points, description)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    if any(path.glob("experiment_state-*.json")):
        tuner = tune.Tuner.restore(str(path), pretraining, resume_errored=retry_failed)
    with asked_to_stop(stop_file.touch):
        tuner.fit()
    stop_file.unlink(missing_ok=True)


def _dirname(trial: TuneTrial) -> str:
    return f"{trial.config[NUMBER]:04d}"


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
    last = _last(trial)
    status: Status = "running"
    if trial.status == TuneTrial.ERROR:
        status = "failed"
    elif last.get("done"):
        status = "finished" if last["finished"] else "stopped"
    return Trial(
        number=trial.config[NUMBER],
        point={name: value for name, value in trial.config.items() if name != NUMBER},
        status=status,
        epochs=last.get("epochs", 0.0),
        seconds=last.get("seconds", 0.0),
        values=last.get("values", {}),
        message=last.get("message", "its process died") if status == "failed" else None,
    )


def _last(trial: TuneTrial) -> Mapping[str, Any]:
    """A trial's last report; ``Trial.last_result`` would ask the process of one without any."""
    last: Mapping[str, Any] = trial.run_metadata.last_result
    return last


class _Progress(tune.Callback):
    """Says how the trials stand, keeps the table, and ends a sweep whose runs have all stopped."""

    def __init__(self, sweep: Sweep, points: Points, description: dict[str, Any]) -> None:
        self._sweep, self._points, self._description = sweep, points, description
        self._before: dict[int, Trial] | None = None
        """The trials as of the start of this driver."""
        self._changed = False

    def on_step_begin(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        self._points.trials = info["trials"]
        if self._before is None:
            self._before = {trial.number: trial for trial in _states(info["trials"])}

    def on_step_end(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        if self._changed:
            self._changed = False
            self._show(_states(info["trials"]))
        if (self._sweep.folder / STOP_FILE).exists():
            running = [trial for trial in info["trials"] if trial.status == TuneTrial.RUNNING]
            if all(_last(trial).get("interrupted") for trial in running):
                os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own way to end with trials left

    def on_trial_start(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        state = _state_of(info["trial"])
        how = f"resumes after {state.epochs:g} epochs" if _last(info["trial"]) else "starts"
        say(f"trial {state.number} {how}: {shown(state.point)}")
        self._changed = True

    def on_trial_result(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        state, result = _state_of(info["trial"]), info["result"]
        if before := (self._before or {}).get(state.number):
            result["seconds"] += before.seconds
        if result["epochs"] > state.epochs and not result["done"]:
            words = self._objective(result.get("values", {}))
            say(f"trial {state.number} epoch {result['epochs']:g}{words}")
            self._changed = True

    def on_trial_complete(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        trials, state = _states(info["trials"]), _state_of(info["trial"])
        write_table(self._sweep, trials, self._description)
        self._changed = True
        done, why = sum(t.ended for t in trials), f" ({state.message})" if state.message else ""
        say(
            f"trial {state.number} {state.status} after {state.epochs:g} epochs, "
            f"{state.seconds:.0f} s{self._objective(state.values)}{why}: {done} done, "
            f"{self._sweep.num_trials - done} left"
        )

    def on_trial_error(self, **info: Any) -> None:  # type: ignore[override]  # noqa: ANN401
        # If the trial's process died, its workers still hold their resources.
        free_placement_group(self._sweep.folder / _state_of(info["trial"]).run)
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
        before = sum(int(trial.epochs) for trial in (self._before or {}).values())
        given = done - sum(int(trial.epochs) for trial in trials) + before
        ended = sum(trial.ended for trial in trials)
        note = f"{ended} of {sweep.num_trials} trials ended, {len(trials) - ended} running"
        show(Standing(work="sweep", done=done, total=total, unit="epochs", given=given, note=note))
