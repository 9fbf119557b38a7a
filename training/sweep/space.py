"""Search spaces: which fields of a pretraining's configuration vary, and over what.

On a command line, ``masks.query_ratio=0.05:0.25,0.4`` lists values and ``optim.lr=0.001..0.1`` is
an interval. A pair is written with a colon; a single number stands for both of its ends.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, get_args

import numpy as np

from pipeline.core.errors import InputError
from training.config.fields import Plain, check_name, field_types, with_fields
from training.config.pretrain import PretrainConfig

Point = dict[str, Plain]
"""The values of one trial, by dotted field name."""
Search = Literal["grid", "random", "optuna"]


@dataclass(frozen=True)
class Values:
    """A list of values: a grid tries all of them, a choice draws one."""

    kind: Literal["grid", "choice"]
    values: tuple[Plain, ...]


@dataclass(frozen=True)
class Interval:
    """An interval of numbers, ends included, uniform in the number or in its logarithm."""

    kind: Literal["uniform", "log_uniform"]
    low: float
    high: float
    whole: bool = False

    @property
    def whole_ends(self) -> tuple[int, int]:
        """The smallest and the largest whole number in the interval."""
        return math.ceil(self.low), math.floor(self.high)


Domain = Values | Interval
Space = dict[str, Domain]
"""Domains by dotted field name, in the order in which they were given."""


def parse_space(
    *,
    grid: Sequence[str] = (),
    choice: Sequence[str] = (),
    uniform: Sequence[str] = (),
    log_uniform: Sequence[str] = (),
) -> Space:
    """Reads a space from the words of a command line.

    Args:
        grid: ``name=value,value``; every combination is tried.
        choice: ``name=value,value``; one value is drawn.
        uniform: ``name=low..high``.
        log_uniform: ``name=low..high``, both above 0.

    Raises:
        InputError: a word cannot be read, names an unknown field, or repeats one.
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
    if kind in ("grid", "choice"):
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
    field = field_types(PretrainConfig).get(name)
    members = get_args(field) or (field,)
    whole = int in members and float not in members and tuple not in members
    return Interval("uniform" if kind == "uniform" else "log_uniform", low, high, whole)


def plain_value(word: str) -> Plain:
    """A word as a number or a truth value where it reads as one, else the word itself."""
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
    """The space as JSON values."""
    plain = {name: dataclasses.asdict(domain) for name, domain in space.items()}
    for domain in plain.values():
        domain.pop("whole", None)  # it follows from the field
        if "values" in domain:
            domain["values"] = list(domain["values"])
    return plain


def num_points(space: Space, search: Search, num_trials: int | None) -> int:
    """The number of trials of a sweep.

    Args:
        space: what varies.
        search: how points are chosen.
        num_trials: what the user asked for; None means all points of a grid, else 8.

    Raises:
        InputError: the space is empty, a grid has an interval, or ``num_trials`` is not the
            number of points of the grid.
    """
    if not space:
        raise InputError(
            "nothing to sweep: give --space NAME, --grid, --choice, --uniform or --log-uniform"
        )
    if search != "grid":
        return 8 if num_trials is None else num_trials
    count = len(grid_points(space))
    if num_trials is not None and num_trials != count:
        raise InputError(
            f"the grid has {count} points, and --num-trials says {num_trials}: leave it out, or "
            "choose --search random"
        )
    return count


def fixed_points(space: Space, search: Search, *, seed: int, count: int) -> list[Point]:
    """The points of trials 0 to ``count`` - 1, or an empty list where results decide them."""
    if search == "grid":
        return grid_points(space)
    if search == "random":
        return [random_point(space, seed=seed, number=number) for number in range(count)]
    return []


def grid_points(space: Space) -> list[Point]:
    """Every combination of the values; the last field varies fastest.

    Raises:
        InputError: the space has an interval.
    """
    lists: list[tuple[Plain, ...]] = []
    for name, domain in space.items():
        if isinstance(domain, Interval):
            raise InputError(
                f"{name} is an interval, of which there is no grid: list values (--grid "
                f"{name}=A,B,C) or choose --search random"
            )
        lists.append(domain.values)
    return [dict(zip(space, combination, strict=True)) for combination in product(*lists)]


def random_point(space: Space, *, seed: int, number: int) -> Point:
    """The point of one trial: a function of the seed and the trial's number."""
    rng = np.random.default_rng([seed, number])
    return {name: _drawn(domain, rng) for name, domain in space.items()}


def _drawn(domain: Domain, rng: np.random.Generator) -> Plain:
    if isinstance(domain, Values):
        return domain.values[int(rng.integers(len(domain.values)))]
    if domain.kind == "uniform":
        if domain.whole:
            low, high = domain.whole_ends
            return int(rng.integers(low, high + 1))
        return float(rng.uniform(domain.low, domain.high))
    number = math.exp(rng.uniform(math.log(domain.low), math.log(domain.high)))
    return round(number) if domain.whole else float(np.clip(number, domain.low, domain.high))


def check_values(space: Space, base: PretrainConfig) -> None:
    """Raises ``InputError`` when a field refuses a value or an end of an interval.

    Each value is tried alone in the base configuration, because the values of the other fields
    are not known where points are drawn.
    """
    for name, domain in space.items():
        ends = domain.values if isinstance(domain, Values) else (domain.low, domain.high)
        for value in ends:
            with_fields(base, {name: value})


def shown(point: Mapping[str, Plain]) -> str:
    """A point in one line, with rounded numbers."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )
