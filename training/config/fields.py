"""Fields of nested settings by dotted name: their types, and copies with other values.

A value may be what JSON or a command line has for it: text for a path or a number, ``none``, and
for a pair a list, text with a colon (``0.05:0.25``), or one number that is both ends. A tuple of
any length takes a list, or its only member.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pipeline.core.errors import InputError
from pipeline.storage.storage import is_url
from training.methods.settings import MethodConfig

Config = TypeVar("Config")
Plain = bool | int | float | str
"""A value as JSON and tables hold it."""
MOST_NAMED = 5
"""Values that a message about one of them repeats."""
NAME = "name"
"""Where the settings of a method name it in JSON; ``method=NAME`` means the same."""


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


def new_name(name: str) -> str:
    """What a field of an earlier version, or its option, is called now; other names stay."""
    name = re.sub(r"^(--)?(moco|simclr|byol)\.", r"\1method.", name)
    return name.replace("masks.attmask.probability", "masks.probability")


def check_name(kind: type[Any], name: str) -> None:
    """Raises ``InputError`` with similar names unless a dataclass has a field of that dotted name.

    One end of a pair has a name as well: ``masks.query_ratio.0``.
    """
    if (now := new_name(name)) != name:
        raise InputError(f"{name} is called {now} now")
    kinds = _all_types_of(cast(Any, kind))
    whole, _, last = name.rpartition(".")
    if name in kinds or (last in ("0", "1") and _is_pair(kinds.get(whole))):
        return
    near = [known for known in kinds if known.startswith(f"{name}.")]
    near = near or [
        *difflib.get_close_matches(name, kinds),
        *(known for known in kinds if known.endswith(f".{last}")),
    ]
    proposed = ", ".join(dict.fromkeys(near))
    advice = f"did you mean {proposed}?" if near else "see jobs/pretrain.py --help-all"
    raise InputError(f"there is no field {name!r}: {advice}")


def _is_pair(kind: Any) -> bool:  # noqa: ANN401
    return get_origin(kind) is tuple and Ellipsis not in get_args(kind)


def with_fields(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a frozen dataclass of dataclasses with other values, all set at once.

    Raises:
        InputError: no such field, a value of another type, or one that the config refuses; names
            the fields that were to be changed.
    """
    for name in values:
        check_name(type(config), name)
    try:
        return _changed(config, values)
    except InputError as error:
        raise InputError(f"{_named(config, values)}{error}") from error


def _named(config: object, values: Mapping[str, Any]) -> str:
    """The values of which one was refused, for its message; of many those of another type."""
    if len(values) > MOST_NAMED:
        kinds = field_types(type(config))
        values = {name: value for name, value in values.items() if not _fits(kinds, name, value)}
    given = ", ".join(f"{name}={value}" for name, value in values.items())
    return given and f"{given}: "


def _fits(kinds: Mapping[str, Any], name: str, value: Any) -> bool:  # noqa: ANN401
    try:
        if name in kinds:
            read_value(kinds[name], value)
    except InputError:
        return False
    return True


def _changed(config: Config, values: Mapping[str, Any]) -> Config:
    kinds, parts = _own_types(type(config)), dict[str, dict[str, Any]]()
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if first not in kinds:  # a setting of another method
            method, known = getattr(config, NAME, ""), ", ".join(kinds)
            raise InputError(f"method {method} has no setting {name!r}: choose from {known}")
        parts.setdefault(first, {})[rest] = value
    new = {name: _new(kinds[name], getattr(config, name), inner) for name, inner in parts.items()}
    return dataclasses.replace(config, **new)  # type: ignore[type-var]


def _new(kind: Any, current: Any, values: dict[str, Any]) -> Any:  # noqa: ANN401
    """The new value of one field, from values by the rest of their names; "" is the field's own."""
    if isinstance(current, MethodConfig):
        current = current.renamed(str(values.pop("", values.pop(NAME, current.name))))
    if dataclasses.is_dataclass(current):
        return _changed(current, values)
    value = read_value(kind, values.pop("")) if "" in values else current
    if not values:
        return value
    return read_value(kind, [values.get(str(n), end) for n, end in enumerate(value)])


def read_value(kind: Any, given: Any) -> Any:  # noqa: ANN401  (any type of a field)
    """A value of a field's type from what a person, JSON or a sampler gives for it.

    Raises:
        InputError: it is none of that type.
    """
    from pydantic import ValidationError  # slow to import, and not needed for --help

    members = get_args(kind) or (kind,)
    if type(None) in members and str(given).lower() == "none":
        return None
    if {str, Path} <= set(members) and isinstance(given, str | Path):
        return given if is_url(given) else Path(given)
    if get_origin(kind) is tuple and not _is_pair(kind):
        some = given if isinstance(given, list | tuple) else [given]
        return tuple(read_value(members[0], one) for one in some)
    if get_origin(kind) is tuple:
        ends = given.split(":") if isinstance(given, str) else given
        ends = list(ends) if isinstance(ends, list | tuple) else [ends]
        given = ends * len(members) if len(ends) == 1 else ends
    elif isinstance(given, bool) and bool not in members:
        given = str(given)  # which is no number
    try:
        return _adapter(kind).validate_python(given)
    except ValidationError as error:
        reasons = [detail["msg"].partition(", unable")[0] for detail in error.errors()]
        wanted = " or ".join(reason.removeprefix("Input should be ") for reason in reasons)
        raise InputError(f"{given!r} is refused, wanted {wanted}") from None


@cache
def _all_types_of(kind: Any) -> Mapping[str, Any]:  # noqa: ANN401
    return field_types(kind)


@cache
def _adapter(kind: Any) -> Any:  # noqa: ANN401
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _own_types(kind: type[Any]) -> Mapping[str, Any]:
    return _types_of(kind)  # type: ignore[arg-type]  # to mypy a class is not hashable


@cache  # resolving annotations took most of the time to change a configuration
def _types_of(kind: type[Any]) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
