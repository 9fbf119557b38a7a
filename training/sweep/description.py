"""The sweep of a folder: its description in ``sweep.json``, and a lock for the one driver."""

import fcntl
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, write_error
from pipeline.storage.atomic import write_atomically
from training.config.fields import dotted
from training.sweep.config import Sweep
from training.sweep.space import shown, space_to_json

SWEEP_FILE, LOCK_FILE = "sweep.json", ".lock"
VERSION = 1
NOT_COMPARED = (
    "version",
    "fingerprint",
    "name",
    "num_trials",
    "val_images",
    "config.shards",  # the digest is compared
    "config.out",
    "config.num_workers",
    "config.loader_workers",
    "config.log_every_steps",
    "config.max_failures",
    "config.checkpoint.",
    "config.knn.val_shards",
    "config.knn.train_shards",
    "config.heldout.shards",
)
"""Entries that may differ when a sweep is resumed."""


def describe(sweep: Sweep, data_digest: str, val_images: int | None = None) -> dict[str, Any]:
    """The content of ``sweep.json``.

    Args:
        sweep: the settings.
        data_digest: digest of the base configuration's shards.
        val_images: images that every trial's kNN accuracy is measured on, where it is one number.
    """
    scheduler: dict[str, Any] = {"name": sweep.scheduler}
    if sweep.scheduler == "asha":
        scheduler["grace_epochs"] = sweep.grace_epochs
        scheduler["reduction_factor"] = sweep.reduction_factor
    plain = {
        "version": VERSION,
        "name": sweep.name,
        "objective": {"name": sweep.objective, "mode": sweep.mode},
        "space": space_to_json(sweep.space),
        "search": sweep.search,
        "seed": sweep.seed,
        "num_trials": sweep.num_trials,
        "scheduler": scheduler,
        "config": sweep.base.to_json(),
        "data_digest": data_digest,
        "val_images": val_images,
    }
    fingerprint = hashlib.sha256(json.dumps(_compared(plain), sort_keys=True).encode()).hexdigest()
    return {**plain, "fingerprint": fingerprint}


def write_description(sweep: Sweep, description: dict[str, Any]) -> None:
    """Writes ``sweep.json``."""
    text = json.dumps(description, indent=1)
    write_atomically(sweep.folder / SWEEP_FILE, text.encode() + b"\n")


def check_folder(sweep: Sweep, data_digest: str) -> None:
    """Raises ``InputError`` when the folder holds something else than this sweep.

    A number of trials that differs from the recorded one is no difference.
    """
    folder = sweep.folder
    path = folder / SWEEP_FILE
    if not path.exists():
        others = folder.is_dir() and {path.name for path in folder.iterdir()} - {LOCK_FILE}
        if others or (folder.exists() and not folder.is_dir()):
            raise InputError(f"{folder} exists and is no sweep: choose another --out")
        return
    try:
        recorded = json.loads(path.read_text())
        if recorded["version"] != VERSION:
            raise ValueError(f"version {recorded['version']} instead of {VERSION}")
        old = _compared(recorded)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error
    new = _compared(describe(sweep, data_digest))
    lines = [
        f"{name.removeprefix('config.')}: {_brief(old.get(name))} -> {_brief(new.get(name))}"
        for name in dict.fromkeys([*old, *new])
        if old.get(name) != new.get(name)
    ]
    if lines:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(lines)}): start it with the same settings "
            "to resume it, or choose another --out"
        )


def _compared(description: dict[str, Any]) -> dict[str, Any]:
    """The entries that decide the trials' results, by dotted name; a domain is one value."""
    space = {f"space.{name}": domain for name, domain in description["space"].items()}
    others = dotted({name: value for name, value in description.items() if name != "space"})
    return {n: v for n, v in {**others, **space}.items() if not n.startswith(NOT_COMPARED)}


def _brief(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if not isinstance(value, dict):
        return "none" if value is None else str(value)
    return shown({key: inner for key, inner in value.items() if inner is not None})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock while the block runs. The system releases it when the process dies.

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
