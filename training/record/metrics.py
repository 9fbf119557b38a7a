"""The run's record: ``metrics.jsonl`` and TensorBoard, written by rank 0."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from pipeline.storage.atomic import write_atomically
from training.record.trackers import Trackers

METRICS_FILE = "metrics.jsonl"
WARNING, LEARNING = "warning", "learning"
NO_NOTES: Mapping[str, str] = MappingProxyType({})
TIMINGS = ("images_per_second", "data_wait_share", "seconds")
"""Entries that depend on the machine; all others are the same in a rerun on one CPU worker."""


class MetricsLog:
    """Appends one JSON object a line, and mirrors the numbers to TensorBoard.

    A resumed run first cuts off what was written after its checkpoint, since those steps come
    again.

    Args:
        folder: the run's folder.
        resume_step: global steps done in the checkpoint that is resumed, 0 for a new run.
        trackers: other places that are told the numbers and shown the pictures; None: none.
    """

    def __init__(self, folder: Path, *, resume_step: int, trackers: Trackers | None = None) -> None:
        path = folder / METRICS_FILE
        keep = [entry for entry in read_metrics(folder) if float(entry["step"]) <= resume_step]
        if resume_step == 0:
            keep = []
        write_atomically(path, "".join(json.dumps(entry) + "\n" for entry in keep).encode())
        self._file: TextIO = path.open("a", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)
        self._trackers = trackers

    def write(
        self,
        *,
        step: int,
        kind: str,
        values: dict[str, float],
        notes: Mapping[str, str] = NO_NOTES,
    ) -> None:
        """Writes numbers of global step ``step``, and words that are no numbers.

        ``kind`` is ``train`` or ``eval``.
        """
        self._file.write(json.dumps({"step": step, "kind": kind, **values, **notes}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._trackers is not None:
            self._trackers.numbers(step, {f"{kind}/{name}": v for name, v in values.items()})

    def picture(self, *, step: int, name: str, path: Path) -> None:
        """Shows a PNG of global step ``step``."""
        with Image.open(path) as image:
            self._board.add_image(name, np.asarray(image), step, dataformats="HWC")
        if self._trackers is not None:
            self._trackers.picture(step, name, path)

    def warn(self, *, step: int, message: str) -> None:
        """Writes a warning of global step ``step``; its ``kind`` is ``warning``."""
        self._file.write(json.dumps({"step": step, "kind": WARNING, "message": message}) + "\n")
        self._board.add_text(WARNING, message, step)

    def verdict(self, *, step: int, message: str) -> None:
        """Writes whether the run has learned; the line's ``kind`` is ``learning``."""
        self._file.write(json.dumps({"step": step, "kind": LEARNING, "message": message}) + "\n")
        self._board.add_text(LEARNING, message, step)

    def close(self, *, finished: bool = True) -> None:
        """Flushes and closes all records."""
        self._file.close()
        self._board.close()
        if self._trackers is not None:
            self._trackers.close(finished)


def read_metrics(folder: Path) -> list[dict[str, float | str]]:
    """The entries of a run's ``metrics.jsonl``; a last line cut off by a crash is left out."""
    path = folder / METRICS_FILE
    entries: list[dict[str, float | str]] = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return entries


def latest_values(folder: Path) -> dict[str, float]:
    """The last value of every number in a run's record."""
    values = {
        name: value
        for entry in read_metrics(folder)
        if entry["kind"] != WARNING
        for name, value in entry.items()
    }
    return {
        name: float(value)
        for name, value in values.items()
        if name != "step" and not isinstance(value, str)
    }
