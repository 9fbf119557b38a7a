"""A config's fields as options in named groups, whose names know nothing of the groups.

A config lists in ``groups`` which fields stand together in its help, title by title; the other
fields stand by themselves behind them. A field that is a config with groups too, and has no name
of its own, is taken apart likewise.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import Field, is_dataclass, make_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro

Groups = Mapping[str, tuple[str, tuple[str, ...]]]
"""Titles, each with a sentence and the names of its fields."""


def grouped(config: type[Any], default: Any = None) -> type[Any]:  # noqa: ANN401
    """A dataclass of the same options, with a nested one for each group.

    Args:
        config: a dataclass; its docstring describes its fields under ``Attributes:``.
        default: an instance: a part of it that is of a subclass has that subclass's options.
    """
    hints = get_type_hints(config, include_extras=True)
    for name, hint in hints.items():
        value = getattr(default, name, None)
        if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, hint):
            hints[name] = type(value)
    fields = {field.name: field for field in dataclasses.fields(config)}
    members: dict[str, Any] = {}  # a group stands where its first field does
    for name in fields:
        if (title := _title_of(config, name)) is not None:
            members[_member(title)] = (
                group(_inner(config, title, hints), title),
                dataclasses.field(),
            )
        elif (part := _part(hints[name])) is not None:
            part = grouped(part, getattr(default, name, None))
            members[name] = unnamed(part), _default(fields[name])
        else:
            members[name] = hints[name], _default(fields[name])
    own = [(name, *member) for name, member in members.items()]
    return make_dataclass(
        config.__name__, own, namespace={"__doc__": config.__doc__}, frozen=True, kw_only=True
    )


def group(options: type[Any], title: str) -> Any:  # noqa: ANN401  (a type, annotated)
    """A nested dataclass that stands under a title of its own in the help, and only there."""
    return Annotated[options, tyro.conf.arg(name=title), tyro.conf.OmitArgPrefixes]


def unnamed(options: type[Any]) -> Any:  # noqa: ANN401  (a type, annotated)
    """A nested dataclass whose options are named as if they were the outer one's."""
    return Annotated[options, tyro.conf.arg(name="")]


def to_grouped(made: type[Any], config: Any) -> Any:  # noqa: ANN401  (any config)
    """A config's values in its grouped class."""
    kinds = get_type_hints(made)
    values = {
        _member(title): kinds[_member(title)](**{name: getattr(config, name) for name in names})
        for title, (_, names) in groups_of(type(config)).items()
    }
    own = get_type_hints(type(config), include_extras=True)
    for name in _ungrouped(type(config)):
        value = getattr(config, name)
        values[name] = value if _part(own[name]) is None else to_grouped(kinds[name], value)
    return made(**values)


def from_grouped(config: type[Any], given: Any) -> Any:  # noqa: ANN401
    """The config of the values in its grouped class; raises whatever the config raises."""
    values: dict[str, Any] = {}
    for title, (_, names) in groups_of(config).items():
        values |= {name: getattr(getattr(given, _member(title)), name) for name in names}
    hints = get_type_hints(config, include_extras=True)
    for name in _ungrouped(config):
        part, value = _part(hints[name]), getattr(given, name)
        values[name] = value if part is None else from_grouped(part, value)
    return config(**values)


def groups_of(config: type[Any]) -> Groups:
    """Which of a config's fields stand together."""
    found: Groups = getattr(config, "groups", {})
    return found


def _ungrouped(config: type[Any]) -> list[str]:
    names = [field.name for field in dataclasses.fields(config)]
    return [name for name in names if _title_of(config, name) is None]


def _title_of(config: type[Any], name: str) -> str | None:
    titles = (title for title, (_, names) in groups_of(config).items() if name in names)
    return next(titles, None)


def _inner(config: type[Any], title: str, hints: Mapping[str, Any]) -> type[Any]:
    """The dataclass of one group, described by its sentence and the config's docstring."""
    about, names = groups_of(config)[title]
    fields = {field.name: field for field in dataclasses.fields(config)}
    own = [(name, hints[name], _default(fields[name])) for name in names]
    attributes = "".join(inspect.cleandoc(config.__doc__ or "").partition("Attributes:")[1:])
    described = {"__doc__": f"{about}\n\n{attributes}"}
    return make_dataclass(title, own, namespace=described, frozen=True, kw_only=True)


def _part(kind: Any) -> type[Any] | None:  # noqa: ANN401
    """The config that a field is, where its options are named as if they were the outer one's."""
    if get_origin(kind) is not Annotated:
        return None
    inner, *about = get_args(kind)
    unnamed = tyro.conf.arg(name="") in about
    return inner if unnamed and isinstance(inner, type) and is_dataclass(inner) else None


def _member(title: str) -> str:
    return f"group_{title.replace(' ', '_')}"


def _default(field: Field[Any]) -> Any:  # noqa: ANN401
    return dataclasses.field(default=field.default, default_factory=field.default_factory)
