"""What has happened in a sweep, one event a line in a file that only grows.

A sweep that was killed is what its ledger says: trials that ended stay as they are, the others go
on, and the scheduler is told again, in the same order, all that it was told before.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.core.errors import InputError
from training.sweep.space import Point

LEDGER_FILE = "trials.jsonl"
TRIALS_FOLDER = "trials"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """How a trial stands.

    Attributes:
        number: from 0.
        point: its values of what is swept.
        status: ``running``: started, and not ended.
        epochs: trained, as of its last report.
        seconds: all its starts together, as of their last reports.
        values: its last numbers, by name.
        message: why it failed.
    """

    number: int
    point: Point
    status: Status = "running"
    epochs: float = 0.0
    seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    message: str | None = None

    @property
    def run(self) -> str:
        """Its run's folder, below the sweep's."""
        return f"{TRIALS_FOLDER}/{self.number:04d}"

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do of it."""
        return self.status != "running"


@dataclass(frozen=True)
class Report:
    """What a trial said after some epochs."""

    number: int
    epochs: float
    values: dict[str, float]


class Ledger:
    """The trials of a sweep, and the file that says so.

    Args:
        folder: of the sweep; it need not be there before the first event.

    Raises:
        InputError: the file is damaged, other than by a last line that was cut off.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER_FILE
        self.trials: dict[int, Trial] = {}
        self.reports: list[Report] = []
        """In the order in which they came."""
        self._seconds_before: dict[int, float] = {}
        self._whole_bytes = 0
        for event in self._read():
            self._take(event)

    def start(self, number: int, point: Point) -> Trial:
        """A trial starts, or goes on."""
        self._write({"event": "start", "trial": number, "point": point})
        return self.trials[number]

    def report(
        self, number: int, *, epochs: float, seconds: float, values: dict[str, float]
    ) -> Report | None:
        """A trial says how it stands, ``seconds`` after its start.

        Returns:
            None for what it has said before: one that goes on from a checkpoint repeats itself.
        """
        if epochs <= self.trials[number].epochs:
            return None
        event = {"event": "report", "trial": number, "epochs": epochs, "seconds": seconds}
        self._write({**event, "values": values})
        return self.reports[-1]

    def end(
        self,
        number: int,
        status: Status,
        *,
        epochs: float | None = None,
        seconds: float | None = None,
        message: str | None = None,
    ) -> Trial:
        """A trial has ended: how, after how many epochs, how long after its last start, and why.

        None: as its last report had it.
        """
        event = {"event": "end", "trial": number, "status": status}
        self._write({**event, "epochs": epochs, "seconds": seconds, "message": message})
        return self.trials[number]

    def reopen(self, number: int) -> Trial:
        """A trial that failed is to be tried again."""
        self._write({"event": "reopen", "trial": number})
        return self.trials[number]

    def _take(self, event: dict[str, Any]) -> None:
        number = int(event["trial"])
        trial = self.trials.get(number)
        if event["event"] == "start":
            trial = trial or Trial(number, dict(event["point"]))
            self._seconds_before[number] = trial.seconds
            self.trials[number] = trial
            return
        assert trial is not None, event
        if event.get("seconds") is not None:
            trial = replace(trial, seconds=self._seconds_before[number] + event["seconds"])
        if event["event"] == "report":
            self.reports.append(Report(number, event["epochs"], event["values"]))
            values = trial.values | event["values"]
            trial = replace(trial, epochs=event["epochs"], values=values)
        elif event["event"] == "end":
            epochs = trial.epochs if event["epochs"] is None else event["epochs"]
            trial = replace(trial, status=event["status"], message=event["message"], epochs=epochs)
        else:
            trial = replace(trial, status="running", message=None)
        self.trials[number] = trial

    def _read(self) -> Iterable[dict[str, Any]]:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines(keepends=True)
        for place, line in enumerate(lines, start=1):
            try:
                event = json.loads(line)
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
            except ValueError as error:
                if place == len(lines):  # a crash in mid-line: the event is as if it had not been
                    return
                raise InputError(
                    f"line {place} of {self.path} is damaged ({error}): choose another --out"
                ) from error
            self._whole_bytes += len(line)
            yield event

    def _write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._whole_bytes)
            file.seek(self._whole_bytes)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._whole_bytes += len(line)
        self._take(event)
