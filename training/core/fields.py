"""Fields of nested frozen dataclasses by dotted name: which there are, their types, a changed copy.

A value may be a Python value or what JSON or a command line gives for it: a path as text, a pair as
a list, as text with a colon (``0.05:0.25``), or as the one number that is both of its ends.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pipeline.core.errors import InputError
from pipeline.storage.storage import is_url

Config = TypeVar("Config")
Plain = bool | int | float | str
"""A value as JSON and tables hold it."""
NEAR_NAMES = 3


class Chosen:
    """A part of a config that can be one of several dataclasses, told apart by their ``name``.

    A value may name it (``method=simclr``), and JSON holds the name among its fields.
    """

    name: ClassVar[str]

    @classmethod
    def variants(cls) -> "dict[str, type[Any]]":
        """The dataclasses by name."""
        below: list[type[Any]] = [next(kind for kind in cls.__mro__ if Chosen in kind.__bases__)]
        for kind in below:
            below += kind.__subclasses__()
        return {kind.name: kind for kind in below if "name" in vars(kind)}

    def renamed(self, name: str) -> Any:  # noqa: ANN401  (one of the variants)
        """The variant of that name, with whatever it takes over from this one."""
        variants = self.variants()
        if name not in variants:
            known = ", ".join(sorted(variants))
            raise InputError(f"unknown method {name!r}: choose one of {known}")
        return variants[name]()


def field_types(config: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401
    """Types of all fields of a dataclass or of an instance, by dotted name.

    Fields of a part stand instead of the part. Of a part that is chosen (``Chosen``) a class has
    the fields of all variants, an instance those of its own.
    """
    found: dict[str, Any] = {}
    for name, kind in _own_types(config).items():
        if isinstance(kind, type) and issubclass(kind, Chosen):
            found |= {prefix + name: str, f"{prefix}{name}.name": str}
            variants = kind.variants().values() if isinstance(config, type) else (kind,)
            for variant in variants:
                found |= field_types(variant, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            found |= field_types(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = kind
    return found


def dotted(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings, as JSON has them, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            found |= dotted(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


FORMER_SECTIONS = ("moco", "simclr", "byol")
"""Where the settings of a method stood in earlier versions."""


def new_name(name: str) -> str | None:
    """What a field of an earlier version is called now; None: it is not one."""
    first, _, rest = name.partition(".")
    if first in FORMER_SECTIONS and rest:
        return f"method.{rest}"
    return "masks.probability" if name == "masks.attmask.probability" else None


def check_name(config: Any, name: str) -> None:  # noqa: ANN401  (a dataclass or an instance)
    """Raises ``InputError``, which lists near names, unless there is a field of that name.

    Args:
        config: a dataclass, or an instance of it.
        name: dotted; of a pair also one end: ``masks.query_ratio.0``.
    """
    kinds = field_types(config)
    if (now := new_name(name)) is not None:
        raise InputError(f"{name} is called {now} now")
    whole, _, index = name.rpartition(".")
    if name in kinds or (index in ("0", "1") and get_origin(kinds.get(whole)) is tuple):
        return
    last = name.rpartition(".")[2]
    near = difflib.get_close_matches(name, kinds, NEAR_NAMES) + [
        known
        for known in kinds
        if difflib.get_close_matches(last, [known.rpartition(".")[2]], cutoff=0.8)
    ]
    part = [known for known in kinds if known.startswith(f"{name}.")]
    proposed = list(dict.fromkeys(part or near))[: max(NEAR_NAMES, len(part))]
    advice = f"did you mean {', '.join(proposed)}?" if proposed else "see jobs/pretrain.py --help"
    raise InputError(f"there is no field {name!r}: {advice}")


def with_fields(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of a config with other values in some fields, all set at once.

    Args:
        config: a frozen dataclass.
        values: by dotted name.

    Raises:
        InputError: no such field, a value of another type, or one that the config refuses; names
            the fields that were to be changed.
    """
    for name in values:
        check_name(type(config), name)
    try:
        changed = _changed(config, values)
    except InputError as error:
        given = ", ".join(f"{name}={value}" for name, value in values.items())
        raise InputError(f"{given}: {error}") from error
    assert isinstance(changed, type(config))
    return changed


def _changed(config: Any, values: Mapping[str, Any]) -> Any:  # noqa: ANN401  (any dataclass)
    kinds = _own_types(config)
    new: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if first not in kinds:
            who = f"method {config.name}" if isinstance(config, Chosen) else type(config).__name__
            raise InputError(f"{who} has no setting {first!r}: choose from {', '.join(kinds)}")
        if rest:
            parts.setdefault(first, {})[rest] = value
        elif isinstance(getattr(config, first), Chosen):
            parts.setdefault(first, {})["name"] = value
        else:
            new[first] = read_value(kinds[first], value)
    for first, inner in parts.items():
        current = new.get(first, getattr(config, first))
        if isinstance(current, Chosen) and (variant := inner.pop("name", None)) is not None:
            current = current if variant == current.name else current.renamed(str(variant))
        if isinstance(current, tuple):
            ends = list(current)
            for index, value in inner.items():
                ends[int(index)] = read_value(get_args(kinds[first])[0], value)
            new[first] = tuple(ends)
        else:
            new[first] = _changed(current, inner)
    return dataclasses.replace(config, **new)


def read_value(kind: Any, given: Any) -> Any:  # noqa: ANN401  (any type of a field)
    """A value of a field's type from what a person, JSON or a sampler gives for it.

    Args:
        kind: the field's type.
        given: for instance ``0.3``, ``"0.05:0.25"``, ``[0.05, 0.25]``, ``"none"``.

    Raises:
        InputError: it is none of that type.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(kind, given)
    if origin is Literal:
        if given not in get_args(kind):
            raise InputError(f"{given!r} is none of {', '.join(map(str, get_args(kind)))}")
        return given
    if origin is tuple:
        return _read_tuple(kind, given)
    if kind is type(None):
        if given is None or str(given).lower() == "none":
            return None
    elif kind is bool:
        if str(given).lower() in ("true", "false"):
            return str(given).lower() == "true"
    elif kind in (int, float):
        return _read_number(kind, given)
    elif kind in (str, Path):
        if isinstance(given, str | Path):
            return kind(given)
    else:
        raise InputError(f"a field of type {_shown(kind)} cannot be set to {given!r}")
    raise InputError(f"{given!r} is no {_shown(kind)}")


def _read_number(kind: type[int] | type[float], given: object) -> int | float:
    number = None
    with suppress(ValueError, TypeError):
        number = None if isinstance(given, bool) else float(given)  # type: ignore[arg-type]
    if number is not None and kind is float:
        return number
    if number is not None and number.is_integer():
        return int(number)
    raise InputError(f"{given!r} is no {'whole number' if kind is int else 'number'}")


def _read_union(kind: Any, given: Any) -> Any:  # noqa: ANN401
    # None before a path, which any word would be; and a word is a path unless it is a URL.
    kinds = sorted(get_args(kind), key=lambda one: one is not type(None))
    if isinstance(given, str | Path) and {str, Path} <= set(kinds):
        kinds.remove(Path if is_url(given) else str)
    for one in kinds:
        try:
            return read_value(one, given)
        except InputError:
            continue
    raise InputError(f"{given!r} is none of {', '.join(_shown(one) for one in get_args(kind))}")


def _read_tuple(kind: Any, given: Any) -> tuple[Any, ...]:  # noqa: ANN401
    kinds = get_args(kind)
    items = given.split(":") if isinstance(given, str) else given
    items = list(items) if isinstance(items, list | tuple) else [items]
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(read_value(kinds[0], item) for item in items)
    if len(items) == 1:
        items = items * len(kinds)
    if len(items) != len(kinds):
        raise InputError(f"{given!r} has {len(items)} values, wanted {len(kinds)}: LOW:HIGH")
    return tuple(read_value(one, item) for one, item in zip(kinds, items, strict=True))


def _own_types(config: Any) -> dict[str, Any]:  # noqa: ANN401
    hints = get_type_hints(config if isinstance(config, type) else type(config))
    types = {field.name: hints[field.name] for field in dataclasses.fields(config)}
    if not isinstance(config, type):
        own = {name: getattr(config, name) for name in types}
        types |= {name: type(value) for name, value in own.items() if isinstance(value, Chosen)}
    return types


def _shown(kind: Any) -> str:  # noqa: ANN401
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return {int: "whole number", float: "number", bool: "true or false", type(None): "none"}.get(
        kind, getattr(kind, "__name__", str(kind))
    )
