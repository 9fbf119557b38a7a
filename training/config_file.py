"""A whole configuration in a JSON file: a run's ``config.json``, a sweep's ``best.json``."""

import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from training.config import PretrainConfig
from training.config_fields import with_fields

NO_FIELDS = ("data_digest",)
"""Entries of a run's ``config.json`` that are no settings."""


def read_config_file(path: Path, *, shards: Path, out: Path) -> PretrainConfig:
    """The configuration in a file.

    Args:
        path: the file; fields that it does not have are the defaults.
        shards: where the file names none.
        out: the new run's folder: that in the file, if any, is another run's.

    Raises:
        InputError: it cannot be read, or has a field or a value that cannot be; names it.
    """
    try:
        plain = json.loads(path.read_text())
        if not isinstance(plain, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration {path} cannot be read: {error}") from error
    given = {name: value for name, value in plain.items() if name not in (*NO_FIELDS, "out")}
    try:
        return with_fields(PretrainConfig(shards=shards, out=out), _flat(given))
    except InputError as error:
        raise InputError(f"the configuration {path} cannot be used: {error}") from error


def _flat(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
