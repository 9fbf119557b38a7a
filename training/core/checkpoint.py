"""Checkpoints: everything that decides a run's future, whole or not there at all."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.backbone.folder import BACKBONE_FOLDER
from pipeline.core.errors import InputError, write_error

STATE_FILE, CONFIG_FILE = "state.pt", "config.json"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written, besides at the end and when a stop is asked for.

    Attributes:
        every_epochs: epochs between checkpoints, 0 or more; 0: never.
        every_steps: steps between checkpoints, 0 or more; 0: never.
        every_minutes: minutes between checkpoints, 0 or more; 0: never.
        keep: how many of the newest are kept, 1 or more.
    """

    every_epochs: int = 1
    every_steps: int = 0
    every_minutes: float = 0.0
    keep: int = 2

    def __post_init__(self) -> None:
        if min(self.every_epochs, self.every_steps, self.every_minutes) < 0:
            raise InputError("checkpoint.every_* must not be negative (0: never)")
        if self.keep < 1:
            raise InputError(f"checkpoint.keep {self.keep} must be 1 or more")


class CheckpointStore:
    """Folders ``step-00001234`` below ``folder``, each written aside and renamed when whole.

    Args:
        folder: where the checkpoints live; every rank reaches it.
        keep: how many of the newest are kept.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self.folder = folder
        self._keep = keep

    def save(
        self,
        step: int,
        state: dict[str, Any],
        config: dict[str, Any],
        write_backbone: Callable[[Path], None],
    ) -> Path:
        """Writes the checkpoint of global ``step`` and removes what is too old.

        Args:
            step: global steps done.
            state: tensors and plain values, loadable with ``weights_only``.
            config: the run's configuration.
            write_backbone: exports the backbone into the folder it is given.

        Returns:
            The checkpoint's folder.

        Raises:
            InputError: it cannot be written, the disk being full, say; what was there stays.
        """
        final = self.folder / f"step-{step:08d}"
        if final.exists():
            return final
        temporary = self.folder / f".{final.name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            with (temporary / STATE_FILE).open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2, default=str) + "\n")
            write_backbone(temporary / BACKBONE_FOLDER)
            os.replace(temporary, final)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise write_error(f"checkpoint {final}", error) from error
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self.folder / f"step-{old:08d}")
        return final

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, rising."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*"))

    def latest(self) -> Path | None:
        """The newest checkpoint's folder, or None."""
        steps = self.steps()
        return self.folder / f"step-{steps[-1]:08d}" if steps else None


def load_state(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint's state.

    Raises:
        InputError: when the file is missing or damaged; names it.
    """
    path = checkpoint / STATE_FILE
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise InputError(
            f"checkpoint {path} cannot be read ({error}): remove its folder to go on from the "
            "one before"
        ) from error
    return state


def read_config(checkpoint: Path) -> dict[str, Any]:
    """Reads the configuration that a checkpoint was written with."""
    config: dict[str, Any] = json.loads((checkpoint / CONFIG_FILE).read_text())
    return config
