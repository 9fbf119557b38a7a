"""A whole configuration in a JSON file: a run's ``config.json``, a sweep's ``best.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.core.fields import dotted, with_fields

NO_FIELDS = ("data_digest",)
"""Entries of a run's ``config.json`` that are no settings."""


def read_config_file(path: Path, *, shards: Location, out: Path) -> PretrainConfig:
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
    try:
        return config_from_json(plain, shards=shards, out=out)
    except InputError as error:
        raise InputError(f"the configuration {path} cannot be used: {error}") from error


def config_from_json(plain: Mapping[str, Any], *, shards: Location, out: Path) -> PretrainConfig:
    """The configuration that ``PretrainConfig.to_json`` or ``write_config`` made these values of.

    Raises:
        InputError: a field or a value that cannot be; names it.
    """
    given = {name: value for name, value in plain.items() if name not in (*NO_FIELDS, "out")}
    return with_fields(PretrainConfig(shards=shards, out=out), dotted(given))
