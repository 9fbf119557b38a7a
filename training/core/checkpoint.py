"""Checkpoints: everything that decides a run's future, complete or absent."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipeline.backbone.folder import BACKBONE_FOLDER
from pipeline.core.errors import InputError, write_error
from pipeline.core.faults import point
from pipeline.core.tensors import read_tensors
from pipeline.storage.storage import Location, fetched, is_url, open_store

STATE_FILE, CONFIG_FILE = "state.pt", "config.json"
WHOLE = re.compile(rf"(checkpoints/step-\d+/){re.escape(STATE_FILE)}")
"""In a bucket a checkpoint is whole with this file, which is written last and removed first."""


class CheckpointStore:
    """Folders ``step-00001234`` below ``folder``; each is written under another name and renamed.

    The newest ``keep`` of them are kept.
    """

    def __init__(self, folder: Path, *, keep: int = 1) -> None:
        self.folder = folder
        self._keep = keep

    def save(
        self,
        step: int,
        state: dict[str, Any],
        config: dict[str, Any],
        write_backbone: Callable[[Path], None],
    ) -> None:
        """Writes the checkpoint after ``step`` global steps and removes those that are too old.

        ``state`` is tensors and plain values that load with ``weights_only``; ``write_backbone``
        exports the backbone into the folder it is given.

        Raises:
            InputError: it cannot be written, for instance to a full disk; earlier ones stay.
        """
        final = self.folder_of(step)
        if final.exists():
            return
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            point("create", temporary)
            temporary.mkdir(parents=True)
            with (temporary / STATE_FILE).open("wb") as file:
                torch.save(state, file)
                point("write", STATE_FILE)
                file.flush()
                os.fsync(file.fileno())
            point("write", CONFIG_FILE)
            (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=str) + "\n")
            write_backbone(temporary / BACKBONE_FOLDER)
            point("rename", final)
            temporary.replace(final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise write_error(f"checkpoint {final}", error) from error
        for old in self.steps()[: -self._keep]:
            with suppress(OSError):  # the next one tries again
                point("remove", self.folder_of(old))
                shutil.rmtree(self.folder_of(old))

    def steps(self) -> list[int]:
        """Steps of the checkpoints, rising."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def latest(self) -> Path | None:
        """The newest checkpoint's folder, or None."""
        return self.folder_of(self.steps()[-1]) if self.steps() else None

    def folder_of(self, step: int) -> Path:
        """Where the checkpoint after ``step`` global steps is, or would be."""
        return self.folder / f"step-{step:08d}"


def newest_in(names: Iterable[str], keep: int = 1) -> list[str]:
    """Starts of the names of the newest whole checkpoints among a bucket's, the newest last."""
    return sorted(found[1] for found in map(WHOLE.fullmatch, names) if found)[-keep:]


def newest_checkpoint(run: Location) -> Path | None:
    """The folder of a run's newest checkpoint, or a local copy of it; None: there is none."""
    if not is_url(run):
        return CheckpointStore(Path(run) / "checkpoints").latest()
    names = list(open_store(run).names())
    start = "" if STATE_FILE in names else next(iter(newest_in(names)), None)
    if start is None:
        return None
    return fetched(run, *(name for name in names if name.startswith(start))) / start


def load_state(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint's state; raises ``InputError`` with its name where it is damaged."""
    return load_tensors(checkpoint / STATE_FILE, device)


def load_tensors(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads what ``torch.save`` wrote; raises ``InputError`` with its name where it is damaged."""
    try:
        state = read_tensors(path, device)
        if not isinstance(state, dict):
            raise ValueError(f"it holds no state but {type(state).__name__}")
    except ValueError as error:
        raise InputError(
            f"checkpoint {path} cannot be read ({error}): remove its folder to go on from the "
            "one before"
        ) from error
    return dict(state)
