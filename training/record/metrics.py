"""The run's record: ``metrics.jsonl``, TensorBoard and other trackers, written by rank 0."""

import json
from collections.abc import Callable, Mapping
from operator import methodcaller
from pathlib import Path
from types import MappingProxyType
from typing import Any

from PIL import Image

from pipeline.core import progress
from pipeline.core.errors import check
from pipeline.storage.atomic import append_text, write_atomically
from training.config.settings import TrackConfig
from training.record.trackers import Trackers

METRICS_FILE = "metrics.jsonl"
WARNING, LEARNING = "warning", "learning"
"""Kinds of lines that hold a message instead of numbers."""
TIMINGS = ("images_per_second", "data_wait_share", "seconds")
"""Entries that depend on the machine; all others are the same in a rerun on one CPU worker."""


class MetricsLog:
    """Appends one JSON object a line, and mirrors it to TensorBoard and the trackers.

    A run that resumes at `resume_step` (0: a new run) first cuts off the lines after it, since
    those steps are repeated.
    """

    def __init__(self, folder: Path, *, resume_step: int, trackers: Trackers | None = None) -> None:
        path = folder / METRICS_FILE
        kept = read_metrics(folder) if resume_step else []
        lines = [json.dumps(e) + "\n" for e in kept if float(e["step"]) <= resume_step]
        write_atomically(path, "".join(lines).encode())
        self._file = path.open("a", buffering=1)
        self._folder, self._resume_step = folder / "tensorboard", resume_step
        self._board: Any = None
        self._unshown: list[Callable[[Any], object]] = []
        self._trackers = trackers or Trackers(TrackConfig(), folder, {})

    def write(
        self,
        *,
        step: int,
        kind: str,
        values: Mapping[str, float],
        notes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Writes numbers after global step ``step`` (``kind`` is train or eval), and words."""
        self._write({"step": step, "kind": kind, **values, **notes})
        named = {f"{kind}/{name}": value for name, value in values.items()}
        for name, value in named.items():
            self._show(step, methodcaller("add_scalar", name, value, step))
        self._trackers.tell(lambda tracker: tracker.numbers(step, named))

    def message(self, *, step: int, kind: str, message: str) -> None:
        """Writes a message after global step ``step``; ``kind`` is WARNING or LEARNING."""
        self._write({"step": step, "kind": kind, "message": message})
        self._show(step, lambda board: board.add_text(kind, message, step))

    def _write(self, entry: dict[str, object]) -> None:
        for path in (Path(self._file.name), *([self._folder] if self._board else [])):
            check(path.exists(), f"{path} was deleted while this run wrote to it; run this again")
        append_text(self._file, json.dumps(entry) + "\n")

    def picture(self, *, step: int, name: str, path: Path) -> None:
        """Shows a PNG of global step ``step``."""
        with Image.open(path) as image:
            size = {"width": image.width, "height": image.height, "colorspace": 3}
        data = path.read_bytes()

        def show(board: Any) -> None:  # noqa: ANN401
            from tensorboard.compat.proto.summary_pb2 import Summary

            # The file as it is: the board's `add_image` takes pixels and compresses them again.
            shown = Summary.Image(encoded_image_string=data, **size)
            summary = Summary(value=[Summary.Value(tag=name, image=shown)])
            board.file_writer.add_summary(summary, step)

        self._show(step, show)
        self._trackers.tell(lambda tracker: tracker.picture(step, name, path))

    def _show(self, step: int, what: Callable[[Any], object]) -> None:
        """Tell TensorBoard, once a step is done: it is slow to import."""
        self._unshown.append(what)
        if step > self._resume_step:
            self._show_all()

    def _show_all(self) -> None:
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self._folder), purge_step=self._resume_step + 1)
        for what in self._unshown:
            what(self._board)
        self._unshown = []

    def say_lost(self) -> None:
        """Warns of trackers that were given up."""
        for line in self._trackers.lost():
            progress.say(f"{progress.WARNING}{line}")

    def close(self, *, finished: bool = True) -> None:
        """Flushes and closes all records."""
        self._file.close()
        try:
            self._show_all()
            if self._folder.exists():  # else its thread would fail, and say so
                self._board.close()
        finally:
            self._trackers.close(finished)


def read_metrics(folder: Path) -> list[dict[str, float | str]]:
    """The entries of a run's ``metrics.jsonl``; a last line cut off by a crash is left out."""
    path = folder / METRICS_FILE
    entries: list[dict[str, float | str]] = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def latest_values(folder: Path) -> dict[str, float]:
    """The last value of every number in a run's record."""
    entries = [entry for entry in read_metrics(folder) if entry["kind"] != WARNING]
    values = {name: value for entry in entries for name, value in entry.items() if name != "step"}
    return {name: float(v) for name, v in values.items() if not isinstance(v, str)}
