"""``sweep.json``: what a folder's sweep is, so that another one in the same folder is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.storage.atomic import write_atomically
from training.sweep.config import Sweep
from training.sweep.lock import LOCK_FILE
from training.sweep.space import shown, space_to_json

SWEEP_FILE = "sweep.json"
VERSION = 1
NOT_COMPARED = (
    "shards",  # its digest is
    "out",
    "num_workers",
    "loader_workers",
    "log_every_steps",
    "max_failures",
    "checkpoint.",
    "knn.val_shards",
    "knn.train_shards",
    "heldout.shards",
)
"""Fields of the base configuration that may differ when a sweep goes on."""


def describe(sweep: Sweep, data_digest: str) -> dict[str, Any]:
    """What ``sweep.json`` says of a sweep on data of that digest."""
    plain = {
        "version": VERSION,
        "name": sweep.name,
        "objective": {"name": sweep.objective, "mode": sweep.mode},
        "space": space_to_json(sweep.space),
        "search": sweep.search,
        "seed": sweep.seed,
        "num_trials": sweep.num_trials,
        "scheduler": {"name": sweep.scheduler}
        | (
            {"grace_epochs": sweep.grace_epochs, "reduction_factor": sweep.reduction_factor}
            if sweep.scheduler == "asha"
            else {}
        ),
        "config": sweep.base.to_json(),
        "data_digest": data_digest,
    }
    return {**plain, "fingerprint": _fingerprint(plain)}


def write_description(sweep: Sweep, description: dict[str, Any]) -> None:
    """Writes ``sweep.json``."""
    text = json.dumps(description, indent=1)
    write_atomically(sweep.folder / SWEEP_FILE, text.encode() + b"\n")


def read_description(folder: Path) -> dict[str, Any] | None:
    """What ``sweep.json`` says; None where there is none.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / SWEEP_FILE
    if not path.exists():
        return None
    try:
        description: dict[str, Any] = json.loads(path.read_text())
        if description["version"] != VERSION:
            raise ValueError(f"version {description['version']} instead of {VERSION}")
        return description
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error


def check_folder(sweep: Sweep, data_digest: str) -> None:
    """Raises ``InputError`` when the folder holds something else than this very sweep.

    More or fewer trials than before are the same sweep, unless they are a grid's.
    """
    folder = sweep.folder
    before = read_description(folder)
    if before is None:
        others = folder.is_dir() and {path.name for path in folder.iterdir()} - {LOCK_FILE}
        if others or (folder.exists() and not folder.is_dir()):
            raise InputError(f"{folder} exists and is no sweep: choose another --out")
        return
    lines = differences(before, describe(sweep, data_digest))
    if lines:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(lines)}): start it with the same settings "
            "to go on with it, or choose another --out"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names what differs between two descriptions of sweeps, as ``name: old -> new``."""
    flat_old, flat_new = _flat(old), _flat(new)
    names = [name for name in [*flat_old, *flat_new] if flat_old.get(name) != flat_new.get(name)]
    return [
        f"{name.removeprefix('config.')}: {_brief(flat_old.get(name))} -> "
        f"{_brief(flat_new.get(name))}"
        for name in dict.fromkeys(names)
    ]


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """What decides the trials' results, by dotted name; a domain of the space is one value."""
    flat: dict[str, Any] = {}

    def add(prefix: str, part: dict[str, Any]) -> None:
        for key, value in part.items():
            name = f"{prefix}{key}"
            if name.removeprefix("config.").startswith(NOT_COMPARED):
                continue
            if isinstance(value, dict) and prefix != "space.":
                add(f"{name}.", value)
            else:
                flat[name] = value

    ignored = ("fingerprint", "name", "num_trials", "version")
    add("", {key: value for key, value in description.items() if key not in ignored})
    return flat


def _brief(value: Any) -> str:  # noqa: ANN401  (any JSON value)
    if value is None:
        return "none"
    if not isinstance(value, dict):
        return str(value)
    return shown({key: inner for key, inner in value.items() if inner is not None})


def _fingerprint(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_flat(description), sort_keys=True).encode()).hexdigest()
