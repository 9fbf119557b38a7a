"""A search space: which fields of a pretraining's configuration vary, and over what.

As a person writes it: ``masks.query_ratio=0.05:0.25,0.4`` lists values (a pair has a colon, one
number for a pair is both of its ends), ``optim.lr=0.001..0.1`` is an interval.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.core.fields import Plain, check_name, field_types, with_fields

Point = dict[str, Plain]
"""One trial's values, by dotted name."""
LIST_KINDS = ("grid", "choice")


@dataclass(frozen=True)
class Values:
    """A field takes one of these; ``grid``: every one of them, ``choice``: a drawn one."""

    kind: Literal["grid", "choice"]
    values: tuple[Plain, ...]


@dataclass(frozen=True)
class Interval:
    """A field takes a number of the interval, ends included; ``log_uniform``: its logarithm."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float
    whole: bool = False


Domain = Values | Interval
Space = dict[str, Domain]
"""By dotted name, in the order given."""


def parse_space(
    *,
    grid: Sequence[str] = (),
    choice: Sequence[str] = (),
    uniform: Sequence[str] = (),
    log_uniform: Sequence[str] = (),
) -> Space:
    """Reads a space from a command line's words.

    Args:
        grid: ``name=value,value``, of which every combination is tried.
        choice: ``name=value,value``, of which one is drawn.
        uniform: ``name=low..high``.
        log_uniform: ``name=low..high``, both above 0.

    Raises:
        InputError: a word that is no such thing, no field of that name, a name twice.
    """
    space: Space = {}
    words = {"grid": grid, "choice": choice, "uniform": uniform, "log_uniform": log_uniform}
    for kind, given in words.items():
        for word in given:
            name, _, rest = word.partition("=")
            name = name.strip().replace("-", "_")
            check_name(PretrainConfig, name)
            if name in space:
                raise InputError(f"{name} is given twice: one domain for each field")
            space[name] = _domain(kind, name, rest.strip())
    return space


def _domain(kind: str, name: str, text: str) -> Domain:
    option = f"--{kind.replace('_', '-')} {name}"
    if kind in LIST_KINDS:
        values = tuple(plain_value(word) for word in text.split(",") if word.strip())
        if not values:
            raise InputError(f"{option} has no values: wanted {name}=VALUE,VALUE")
        if len(set(map(str, values))) < len(values):
            raise InputError(f"{option}={text} has a value twice")
        return Values("grid" if kind == "grid" else "choice", values)
    try:
        low, high = (float(end) for end in text.split(".."))
    except ValueError:
        raise InputError(f"{option}={text} is no interval: wanted {name}=LOW..HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{option}={text}: wanted two numbers, LOW below HIGH")
    if kind == "log_uniform" and low <= 0:
        raise InputError(f"{option}={text}: the logarithm needs numbers above 0")
    whole = _is_whole(name)
    return Interval("uniform" if kind == "uniform" else "log_uniform", low, high, whole)


def _is_whole(name: str) -> bool:
    kind = field_types(PretrainConfig).get(name)
    members = get_args(kind) or (kind,)
    return int in members and float not in members and tuple not in members


def plain_value(word: str) -> Plain:
    """A number where the word is one, true or false where it says so, else the word."""
    word = word.strip()
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for read in (int, float):
        try:
            return read(word)
        except ValueError:
            continue
    return word


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as JSON values; intervals without what follows from the field."""
    plain = {name: dataclasses.asdict(domain) for name, domain in space.items()}
    for domain in plain.values():
        domain.pop("whole", None)
        if "values" in domain:
            domain["values"] = list(domain["values"])
    return plain


def grid_points(space: Space) -> list[Point]:
    """Every combination of the values, the last field's the fastest.

    Raises:
        InputError: the space is empty or has an interval.
    """
    check_not_empty(space)
    for name, domain in space.items():
        if isinstance(domain, Interval):
            raise InputError(
                f"{name} is an interval, of which there is no grid: list values (--grid "
                f"{name}=A,B,C) or choose --search random"
            )
    lists = [domain.values for domain in space.values() if isinstance(domain, Values)]
    return [dict(zip(space, combination, strict=True)) for combination in product(*lists)]


def check_not_empty(space: Space) -> None:
    """Raises ``InputError`` for a space without fields."""
    if not space:
        raise InputError(
            "nothing to sweep: give --space NAME, --grid, --choice, --uniform or --log-uniform"
        )


def check_values(space: Space, base: PretrainConfig) -> None:
    """Raises ``InputError`` when a value, or an end of an interval, is refused by its field.

    Each is tried alone in the base configuration: where points are drawn, no value may need that
    of another field.
    """
    for name, domain in space.items():
        ends = domain.values if isinstance(domain, Values) else (domain.low, domain.high)
        for value in ends:
            with_fields(base, {name: value})


def shown(point: Mapping[str, Plain]) -> str:
    """A point in one line, numbers rounded."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )
