"""A whole configuration in a JSON file: a run's ``config.json``, a sweep's ``best.json``."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, write_error
from pipeline.core.plain import parse
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.atomic import temporaries, write_atomically
from pipeline.storage.storage import Location, fetched
from pipeline.storage.store import LocalStore
from training.config.fields import dotted, with_fields
from training.config.pretrain import PretrainConfig
from training.data.selection import read_selection

CONFIG_FILE = "config.json"
VERSION = 1
"""Of `config.json`. Runs from before it had one are read as 0."""
CHOSEN_DIGEST = "chosen_digest"
"""Of the selection."""
DIGESTS = ("data_digest", CHOSEN_DIGEST, "replay_digests")
NO_FIELDS = ("version", *DIGESTS, "out")
"""Entries of a run's ``config.json`` that are no settings of another run."""
MAY_DIFFER_ON_RESUME = (
    *("shards", "selection", "replay.shards"),  # the digests of the data are compared instead
    "out",
    "num_workers",
    "loader_workers",
    "log_every_steps",
    "max_failures",
    "checkpoint.",
    "knn.",
    "heldout.",
    "collapse.",
    "cache.",
    "track.",
    "on_collapse",
    "on_damaged",
)


MAY_DIFFER_ON_EXTENSION = ("epochs", "extend", "optim.lr", "optim.warmup_epochs")
"""Besides: the new schedule."""


def read_config_file(path: Path, *, shards: Location, out: Path) -> PretrainConfig:
    """`config_from_json` of a file.

    Raises:
        InputError: it cannot be read, or has a field or a value that cannot be; names it.
    """
    plain = _read(path)
    try:
        return config_from_json(plain, shards=shards, out=out)
    except InputError as error:
        raise InputError(f"the configuration {path} cannot be used: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = parse(path.read_bytes())
        if not isinstance(plain, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration {path} cannot be read: {error}") from error
    return plain


def _is_later(plain: Mapping[str, Any]) -> bool:
    """Whether a later version of this program wrote a configuration, or none that is known."""
    version = plain.get("version", 0)
    return not isinstance(version, int) or version > VERSION


def config_from_json(plain: Mapping[str, Any], *, shards: Location, out: Path) -> PretrainConfig:
    """The configuration that ``PretrainConfig.to_json`` or ``write_config`` made these values of.

    Fields that it does not have are the defaults. ``shards`` stands where it names none, and
    ``out`` whatever folder it names.

    Raises:
        InputError: a field or a value that cannot be, names it; a later version wrote them.
    """
    if _is_later(plain):
        raise InputError(
            f"it has version {plain['version']!r}, this program reads {VERSION} and earlier ones: "
            "use the program that wrote it"
        )
    given = {name: value for name, value in plain.items() if name not in NO_FIELDS}
    return with_fields(PretrainConfig(shards=shards, out=out), dotted(given))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``name: old -> new`` for fields in which two configurations give other weights."""
    before, after = dotted(old), dotted(new)
    return [
        f"{name}: {before.get(name)} -> {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not name.startswith(MAY_DIFFER_ON_RESUME)
    ]


def write_config(out: Path, config: PretrainConfig, data_digest: str) -> None:
    """Writes ``config.json`` into the run's folder, which it makes; InputError where it cannot.

    What a killed start of the run left half-written is removed first.
    """
    record = {"version": VERSION, **_digests(config, data_digest), **config.to_json()}
    try:
        LocalStore(out).sweep()
        write_atomically(out / CONFIG_FILE, json.dumps(record, indent=2).encode() + b"\n")
    except OSError as error:
        raise write_error(f"the run's folder {out}", error) from error


def _digests(config: PretrainConfig, data_digest: str | None) -> dict[str, Any]:
    """The digests of all that a run trains on; without replay that of its own shards alone."""
    found: dict[str, Any] = {"data_digest": data_digest}
    if config.selection is not None:
        found[CHOSEN_DIGEST] = read_selection(config.selection).digest
    if config.replay.shards:
        sets = map(load_dataset_info, config.replay.shards)
        found["replay_digests"] = [info.plan_digest for info in sets]
    return found


def runs_on(folder: Path, digests: Collection[str]) -> list[Path]:
    """The runs below a folder that trained on a shard set with one of these digests."""
    found: list[Path] = []
    for path in sorted(folder.rglob(CONFIG_FILE)):
        try:
            recorded = _read(path)
        except InputError:  # another program's file
            continue
        replayed = recorded.get("replay_digests")
        trained = [recorded.get("data_digest"), *(replayed if isinstance(replayed, list) else [])]
        if any(digest in digests for digest in trained):
            found.append(path.parent)
    return found


def check_run_folder(out: Path, config: PretrainConfig, data_digest: str) -> None:
    """Raises ``InputError`` when ``out`` holds something else than this very run."""
    path = out / CONFIG_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or set(out.iterdir()) - set(temporaries(out))):
            raise InputError(f"{out} exists and is no run of this job: choose another --out")
        return
    if lines := _changes(out, config, data_digest):
        raise InputError(
            f"{out} holds a run with other settings ({'; '.join(lines)}): "
            "start it with the same ones to resume it, or choose another --out"
        )


def check_same_settings(run: Location, config: PretrainConfig, data_digest: str) -> None:
    """Raises ``InputError`` unless a run has these settings and images, but for the schedule."""
    lines = _changes(fetched(run, CONFIG_FILE), config, data_digest)
    if lines := [line for line in lines if not line.startswith(MAY_DIFFER_ON_EXTENSION)]:
        raise InputError(
            f"extend {run} has other settings or images ({'; '.join(lines)}): leave them as they "
            "are there, or choose --start-from instead"
        )


def _changes(run: Path, config: PretrainConfig, data_digest: str) -> list[str]:
    """`differences` of a run's own record and a configuration, digests of the data among them.

    Settings that have no effect in either may differ: a later version may have other defaults.
    """
    recorded = _read(run / CONFIG_FILE)
    if not isinstance(recorded.get("method"), dict) or _is_later(recorded):
        raise InputError(
            f"{run} holds a run of another version, whose settings had other names. It cannot be "
            "resumed: choose another --out"
        )
    before = read_config_file(run / CONFIG_FILE, shards=config.shards, out=run)
    digests = {name: recorded[name] for name in DIGESTS if name in recorded}
    lines = differences(
        digests | before.to_json(), _digests(config, data_digest) | config.to_json()
    )
    idle = before.idle().keys() & config.idle().keys()
    return [line for line in lines if line.partition(":")[0] not in idle]
