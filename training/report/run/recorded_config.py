"""The configuration of a run from what it recorded of it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pipeline.errors import InputError
from training.config import PretrainConfig

Config = TypeVar("Config")
NO_FIELDS = ("data_digest",)


def config_from_record(recorded: Mapping[str, object]) -> PretrainConfig:
    """The configuration in a run's ``config.json``.

    Raises:
        InputError: a field or a value that this version does not know.
    """
    plain = {name: value for name, value in recorded.items() if name not in NO_FIELDS}
    try:
        return _made(PretrainConfig, plain)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the settings were recorded by another version: {error}") from error


def _made(kind: type[Config], plain: Mapping[str, object]) -> Config:
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints.get(name), value) for name, value in plain.items()})


def _value(hint: Any, plain: Any) -> Any:  # noqa: ANN401  (any field)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _made(hint, plain)
    if isinstance(plain, list):
        return tuple(plain)
    of_path = hint is Path or Path in get_args(hint)
    return Path(plain) if of_path and isinstance(plain, str) else plain


def flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
