"""Fields of the settings by dotted name: their types, and copies with other values.

A value may also be what JSON or a command line has for it: text for a path or a number, ``none``,
and for a pair a list, text with a colon (``0.05:0.25``), or one number that is both ends.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from pipeline.core.errors import InputError
from pipeline.storage.storage import is_url
from training.methods.settings import MethodConfig

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Config = TypeVar("Config")
Plain = bool | int | float | str
"""A value as JSON and tables hold it."""
NEAR_NAMES = 3
NAME = "name"
"""Where the settings of a method name it in JSON; ``method=NAME`` means the same."""
FORMER_SECTIONS = ("moco", "simclr", "byol")
"""Where the settings of a method stood in earlier versions."""


def field_types(kind: type[Any], prefix: str = "") -> dict[str, Any]:
    """Types of the fields of a dataclass and its parts by dotted name, those of all methods too."""
    found: dict[str, Any] = {}
    for name, inner in _own_types(kind).items():
        if inner is MethodConfig:
            found |= {prefix + name: str, f"{prefix}{name}.{NAME}": str}
            for variant in MethodConfig.variants().values():
                found |= field_types(variant, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(inner):
            found |= field_types(inner, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            found[prefix + name] = inner
    return found


def dotted(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings, as JSON has them, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        inner = dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        found |= {prefix + name: value} if inner is None else inner
    return found


def new_name(name: str) -> str | None:
    """What a field of an earlier version is called now; None if it is not one."""
    first, _, rest = name.partition(".")
    if first in FORMER_SECTIONS and rest:
        return f"method.{rest}"
    return "masks.probability" if name == "masks.attmask.probability" else None


def check_name(kind: type[Any], name: str) -> None:
    """Raises ``InputError`` with similar names unless a dataclass has a field of that name.

    Args:
        kind: the dataclass.
        name: dotted; one end of a pair has a name as well: ``masks.query_ratio.0``.
    """
    if (now := new_name(name)) is not None:
        raise InputError(f"{name} is called {now} now")
    kinds = field_types(kind)
    whole, _, last = name.rpartition(".")
    if name in kinds or (last in ("0", "1") and get_origin(kinds.get(whole)) is tuple):
        return
    proposed = [known for known in kinds if known.startswith(f"{name}.")]
    if not proposed:
        endings = difflib.get_close_matches(last, {known.rpartition(".")[2] for known in kinds})
        similar = difflib.get_close_matches(name, kinds, NEAR_NAMES)
        similar += [known for known in kinds if known.rpartition(".")[2] in endings]
        proposed = list(dict.fromkeys(similar))[:NEAR_NAMES]
    advice = f"did you mean {', '.join(proposed)}?" if proposed else "see jobs/pretrain.py --help"
    raise InputError(f"there is no field {name!r}: {advice}")


def with_fields(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a frozen dataclass with other values in some fields, all set at once.

    Args:
        config: a dataclass of dataclasses.
        values: by dotted name.

    Raises:
        InputError: no such field, a value of another type, or one that the config refuses; names
            the fields that were to be changed.
    """
    for name in values:
        check_name(type(config), name)
    try:
        return _changed(config, _nested(values))
    except InputError as error:
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise InputError(f"{given}: {error}") from error


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted name as nested dicts; one for a whole part stands there under `NAME`."""
    tree: dict[str, Any] = {}
    for name, value in sorted(values.items()):  # a part before its fields
        *parts, last = name.split(".")
        node = tree
        for part in parts:
            below = node.get(part, {})
            node[part] = below if isinstance(below, dict) else {NAME: below}
            node = node[part]
        node[last] = value
    return tree


def _changed(config: Config, tree: Mapping[str, Any]) -> Config:
    kinds = _own_types(type(config))
    new: dict[str, Any] = {}
    for name, value in tree.items():
        if name not in kinds:  # a setting of another method
            method, known = getattr(config, NAME, ""), ", ".join(kinds)
            raise InputError(f"method {method} has no setting {name!r}: choose from {known}")
        current = getattr(config, name)
        inner = dict(value) if isinstance(value, Mapping) else {NAME: value}
        if isinstance(current, MethodConfig):
            new[name] = _changed(current.renamed(inner.pop(NAME, current.name)), inner)
        elif not isinstance(value, Mapping):
            new[name] = read_value(kinds[name], value)
        elif isinstance(current, tuple):
            ends = read_value(kinds[name], inner.pop(NAME, current))
            new[name] = read_value(kinds[name], [inner.get(str(n), e) for n, e in enumerate(ends)])
        else:
            new[name] = _changed(current, inner)
    return dataclasses.replace(config, **new)  # type: ignore[type-var]


def read_value(kind: Any, given: Any) -> Any:  # noqa: ANN401  (any type of a field)
    """A value of a field's type from what a person, JSON or a sampler gives for it.

    Args:
        kind: the field's type.
        given: for instance ``0.3``, ``"0.05:0.25"``, ``[0.05, 0.25]``, ``"none"``.

    Raises:
        InputError: it is none of that type.
    """
    from pydantic import ValidationError  # slow to import, and not needed for --help

    members = get_args(kind) or (kind,)
    if type(None) in members and str(given).lower() == "none":
        return None
    if {str, Path} <= set(members) and isinstance(given, str | Path):
        return given if is_url(given) else Path(given)
    value = given
    if get_origin(kind) is tuple:
        value = given.split(":") if isinstance(given, str) else given
        value = list(value) if isinstance(value, list | tuple) else [value]
        value = value * len(members) if len(value) == 1 else value
    elif isinstance(given, bool) and bool not in members:
        value = str(given)  # which is no number
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        reasons = [detail["msg"].partition(", unable")[0] for detail in error.errors()]
        wanted = " or ".join(reason.removeprefix("Input should be ") for reason in reasons)
        raise InputError(f"{given!r} is refused, wanted {wanted}") from None


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":  # noqa: ANN401
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _own_types(kind: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
