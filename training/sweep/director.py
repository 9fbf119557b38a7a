"""Who runs next, what a trial's report means, and what is written down: a sweep without its Ray."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from pipeline.core.errors import InputError
from pipeline.core.progress import Standing, say, show
from training.sweep.config import Sweep
from training.sweep.ledger import Ledger, Status, Trial
from training.sweep.results import objective_of, write_results
from training.sweep.search import Outcome, optuna_point
from training.sweep.space import Point, shown


class Judge(Protocol):
    """Decides which trials are worth going on with."""

    def falls_behind(self, number: int, epochs: float, objective: float) -> bool:
        """Takes in how a trial stands; whether it is to be stopped."""


class Director:
    """The state of a sweep: its ledger, and what is to be done next.

    Args:
        sweep: what is to be done.
        ledger: what has been done.
        judge: which trials are stopped early; None: none.
        description: ``sweep.json``, for the table of results.
    """

    def __init__(
        self,
        sweep: Sweep,
        ledger: Ledger,
        *,
        judge: Judge | None,
        description: dict[str, Any],
    ) -> None:
        self.sweep, self.ledger = sweep, ledger
        self.closing = False
        """Whether no more trials are to be started."""
        self.running: set[int] = set()
        self._judge, self._description = judge, description
        self._points = sweep.points()
        self._behind: set[int] = set()
        self._replay()
        self._broken_off = [t.number for t in self.trials if not t.ended]
        self._epochs_before = self._epochs_trained

    @property
    def trials(self) -> Sequence[Trial]:
        """All that have been started, by number."""
        return [self.ledger.trials[number] for number in sorted(self.ledger.trials)]

    @property
    def num_left(self) -> int:
        """Trials that have not ended, or not even started."""
        new = max(0, self.sweep.num_trials - len(self.trials))
        return new + sum(not trial.ended for trial in self.trials)

    def next(self) -> tuple[int, Point] | None:
        """The next trial: one that was broken off, else a new one; None: there is none."""
        if self.closing:
            return None
        if self._broken_off:
            number = self._broken_off.pop(0)
            point = self.ledger.trials[number].point
        else:
            number = len(self.ledger.trials)
            if number >= self.sweep.num_trials:
                return None
            point = self._point(number)
        before = self.ledger.trials.get(number)
        self.ledger.start(number, point)
        self.running.add(number)
        self.show()
        how = "starts" if before is None else f"goes on after {before.epochs:g} epochs"
        say(f"trial {number} {how}: {shown(point)}")
        return number, point

    def report(
        self, number: int, *, epochs: float, seconds: float, values: dict[str, float]
    ) -> bool:
        """Takes in how a trial stands; whether it is now to be stopped."""
        if self.ledger.report(number, epochs=epochs, seconds=seconds, values=values) is None:
            return False
        trial = self.ledger.trials[number]
        objective = objective_of(self.sweep, trial)
        words = "" if objective is None else f", {self.sweep.objective} {objective:.4g}"
        behind = self._judged(trial)
        self.show()
        say(
            f"trial {number} epoch {epochs:g}{words}"
            + (": behind the others, it is stopped" if behind else "")
        )
        return behind

    def end(
        self,
        number: int,
        *,
        finished: bool,
        epochs: float | None,
        seconds: float | None,
        message: str | None = None,
    ) -> None:
        """Takes in that a trial's run is over: at its end, stopped, broken off, or failed."""
        self.running.discard(number)
        status: Status
        if message is not None:
            status = "failed"
        elif finished:
            status = "finished"
        elif number in self._behind:
            status = "stopped"
        else:
            return  # the sweep itself is being stopped: this trial goes on another time
        trial = self.ledger.end(number, status, epochs=epochs, seconds=seconds, message=message)
        self.write_results()
        self.show()
        done = sum(trial.ended for trial in self.trials)
        why = "" if message is None else f" ({message})"
        say(
            f"trial {number} {status} after {trial.epochs:g} epochs, {trial.seconds:.0f} s{why}: "
            f"{done} done, {self.num_left} left"
        )

    def show(self) -> None:
        """Shows how many epochs of all trials are over; what a stopped one saves is, too."""
        points = dict(enumerate(self._points)) | {t.number: t.point for t in self.trials}
        longest = [
            self._epochs(number, points[number]) if number in points else self.sweep.base.epochs
            for number in range(self.sweep.num_trials)
        ]
        done = sum(longest[t.number] if t.ended else int(t.epochs) for t in self.trials)
        num_ended = sum(trial.ended for trial in self.trials)
        show(
            Standing(
                work="sweep",
                done=done,
                total=sum(longest),
                unit="epochs",
                given=done - (self._epochs_trained - self._epochs_before),
                note=f"{num_ended} of {self.sweep.num_trials} trials ended, "
                f"{len(self.running)} running",
            )
        )

    def _epochs(self, number: int, point: Point) -> int:
        return self.sweep.trial_config(number, point).epochs

    @property
    def _epochs_trained(self) -> int:
        return sum(int(trial.epochs) for trial in self.trials)

    def write_results(self) -> None:
        """Writes the table of the trials so far."""
        write_results(self.sweep, self.trials, self._description)

    def reopen_failed(self) -> None:
        """Failed trials are to be tried again, from their last checkpoints."""
        for trial in self.trials:
            if trial.status == "failed":
                self.ledger.reopen(trial.number)
                self._broken_off.append(trial.number)

    def _point(self, number: int) -> Point:
        if number < len(self._points):
            return self._points[number]
        outcomes = [
            Outcome(trial.point, objective)
            for trial in self.trials
            if trial.ended and (objective := objective_of(self.sweep, trial)) is not None
        ]
        return optuna_point(
            self.sweep.space,
            outcomes,
            seed=self.sweep.seed,
            number=number,
            mode=self.sweep.mode,
        )

    def _judged(self, trial: Trial) -> bool:
        """Tells the judge; whether the trial is to be stopped before its end."""
        objective = objective_of(self.sweep, trial)
        if self._judge is None or objective is None:
            return False
        behind = self._judge.falls_behind(trial.number, trial.epochs, objective)
        if behind and trial.epochs < self._epochs(trial.number, trial.point):
            self._behind.add(trial.number)
            return True
        return False

    def _replay(self) -> None:
        """Tells the judge all that was reported before; ends what it had decided to stop."""
        for report in self.ledger.reports:
            trial = self.ledger.trials[report.number]
            self._judged(replace(trial, epochs=report.epochs, values=report.values))
        for number in sorted(self._behind):
            if not self.ledger.trials[number].ended:
                self.ledger.end(number, "stopped")


def check_reported(trials: Sequence[Trial], sweep: Sweep) -> None:
    """Raises ``InputError`` when trials have ended and none of them reported the objective."""
    over = [trial for trial in trials if trial.status in ("finished", "stopped")]
    if over and all(objective_of(sweep, trial) is None for trial in over):
        raise InputError(f"no trial reported its {sweep.objective}: there is nothing to compare")
