"""The sweep of a folder: its description in ``sweep.json``, and a lock for the one driver."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, write_error
from pipeline.storage.atomic import write_atomically
from training.config.file import differences
from training.sweep.config import Sweep
from training.sweep.space import space_to_json

SWEEP_FILE, LOCK_FILE = "sweep.json", ".lock"
VERSION = 1
NOT_COMPARED = (
    *("version", "name", "num_trials"),
    *("fingerprint", "val_images"),  # of earlier versions
    *("config.shards", "config.out"),  # the digest of the shards is compared
    *("config.num_workers", "config.loader_workers", "config.log_every_steps"),
    *("config.max_failures", "config.checkpoint."),
    *("config.knn.val_shards", "config.knn.train_shards", "config.heldout.shards"),
)
"""Entries that may differ when a sweep is resumed."""


def describe(sweep: Sweep, data_digest: str) -> dict[str, Any]:
    """The content of ``sweep.json``; `data_digest` is that of the base configuration's shards."""
    scheduler: dict[str, Any] = {"name": sweep.scheduler}
    if sweep.scheduler == "asha":
        scheduler["grace_epochs"] = sweep.grace_epochs
        scheduler["reduction_factor"] = sweep.reduction_factor
    description = {
        "version": VERSION,
        "name": sweep.name,
        "objective": {"name": sweep.objective, "mode": sweep.mode},
        "space": space_to_json(sweep.space),
        "search": sweep.search,
        "seed": sweep.search_seed,
        "num_trials": sweep.num_trials,
        "scheduler": scheduler,
        "config": sweep.base.to_json(),
        "data_digest": data_digest,
    }
    return dict(json.loads(json.dumps(description)))


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``sweep.json``."""
    write_atomically(folder / SWEEP_FILE, json.dumps(description, indent=1).encode() + b"\n")


def check_folder(sweep: Sweep, data_digest: str) -> None:
    """Raise `InputError` if the folder holds something else than this sweep."""
    folder, path = sweep.folder, sweep.folder / SWEEP_FILE
    if not path.exists():
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"a file"}
        if folder.exists() and names - {LOCK_FILE}:
            raise InputError(f"{folder} exists and is no sweep: choose another --out")
        return
    try:
        recorded = json.loads(path.read_text())
        if recorded["version"] != VERSION:
            raise ValueError(f"version {recorded['version']} instead of {VERSION}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error
    lines = [
        line.removeprefix("config.")
        for line in differences(recorded, describe(sweep, data_digest))
        if not line.startswith(NOT_COMPARED)
    ]
    if lines:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(lines)}): start it with the same settings "
            "to resume it, or choose another --out"
        )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while the block runs. The system releases it if the process dies.

    Raises:
        InputError: another process holds it, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise write_error(str(folder), error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process runs the sweep in {folder}: wait for it, or choose another --out"
            ) from error
        yield
