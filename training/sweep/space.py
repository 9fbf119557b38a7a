"""Search spaces, also named ones: which fields of a pretraining vary, and the points of trials.

On a command line, ``masks.query_ratio=0.05:0.25,0.4`` lists values and ``optim.lr=0.001..0.1`` is
an interval. A pair is written with a colon; a single number stands for both of its ends.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, get_args

import numpy as np

from pipeline.core.errors import InputError, check
from training.config.fields import Plain, check_name, field_types
from training.config.pretrain import PretrainConfig

Scheduler = Literal["asha", "none"]
Point = dict[str, Plain]
"""The values of one trial, by dotted field name."""


@dataclass(frozen=True)
class Domain:
    """The values of a field: a grid tries all of a list, a choice draws one of it.

    The other kinds draw a number, or its logarithm, uniformly between two ends, included; with
    `whole` a whole number.
    """

    kind: Literal["grid", "choice", "uniform", "log_uniform"]
    values: tuple[Plain, ...]
    whole: bool = False

    @property
    def is_interval(self) -> bool:
        """Whether the values are two ends."""
        return self.kind in ("uniform", "log_uniform")

    def draw(self, rng: np.random.Generator) -> Plain:
        """One of the values, or a number of the interval."""
        if not self.is_interval:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = map(float, self.values)
        if self.kind == "log_uniform":
            number = math.exp(rng.uniform(math.log(low), math.log(high)))
            return round(number) if self.whole else float(np.clip(number, low, high))
        if self.whole:
            return int(rng.integers(int(low), int(high), endpoint=True))
        return float(rng.uniform(low, high))

    def to_json(self) -> dict[str, Any]:
        """As ``sweep.json`` has it, without what follows from the field."""
        if self.is_interval:
            return {"kind": self.kind, "low": self.values[0], "high": self.values[1]}
        return {"kind": self.kind, "values": self.values}


Space = dict[str, Domain]
"""Domains by dotted field name, in the order in which they were given."""


def parse_space(**options: Sequence[str]) -> Space:
    """Read a space from the words of a command line, which are given by kind of domain.

    Raises `InputError` if a word cannot be read, names an unknown field, or repeats one.
    """
    space: Space = {}
    for kind, words in options.items():
        for word in words:
            name, _, text = (part.strip() for part in word.partition("="))
            name = name.replace("-", "_")
            check_name(PretrainConfig, name)
            check(name not in space, f"{name} is given twice: one domain for each field")
            space[name] = _domain(kind, name, text)
    return space


def _domain(kind: Any, name: str, text: str) -> Domain:  # noqa: ANN401  (a kind of `Domain`)
    option = f"--{kind.replace('_', '-')} {name}={text}"
    if kind in ("grid", "choice"):
        values = tuple(plain_value(word.strip()) for word in text.split(",") if word.strip())
        check(bool(values), f"{option} has no values: wanted {name}=VALUE,VALUE")
        check(len(set(map(str, values))) == len(values), f"{option} has a value twice")
        return Domain(kind, values)
    try:
        low, high = map(float, text.split(".."))
    except ValueError:
        raise InputError(f"{option} is no interval: wanted {name}=LOW..HIGH") from None
    ordered = math.isfinite(high - low) and low < high
    check(ordered, f"{option}: wanted two numbers, LOW below HIGH")
    check(kind == "uniform" or low > 0, f"{option}: the logarithm needs numbers above 0")
    kind_of_field = field_types(PretrainConfig).get(name)
    types = get_args(kind_of_field) or (kind_of_field,)
    return Domain(kind, (low, high), whole=int in types and float not in types)


def plain_value(word: str) -> Plain:
    """A word as a number or a truth value if it reads as one, else the word itself."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for read in (int, float):
        with suppress(ValueError):
            return read(word)
    return word


def shown(point: Mapping[str, Plain]) -> str:
    """A point in one line, with rounded numbers."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )


def grid_points(space: Space) -> list[Point]:
    """Every combination, the last field fastest; raises `InputError` if there is an interval."""
    for name, domain in space.items():
        check(
            not domain.is_interval,
            f"{name} is an interval, of which there is no grid: list values (--grid "
            f"{name}=A,B,C) or choose --search random",
        )
    lists = product(*(domain.values for domain in space.values()))
    return [dict(zip(space, values, strict=True)) for values in lists]


@dataclass(frozen=True)
class NamedSpace:
    """What varies in which pretraining, and defaults; `num_trials` None: all points of a grid."""

    base: PretrainConfig
    space: Space = field(default_factory=dict)
    num_trials: int | None = None
    scheduler: Scheduler = "asha"


def mask_ratio(base: PretrainConfig) -> NamedSpace:
    """Ranges of the masking ratio of the query, times those of its own hard negatives: 5 or 15.

    The query is masked by strategy balanced if the base has none, or exchanges backgrounds. Its
    last range is the ratio of masked autoencoders, 75 % (arXiv 2111.06377); with strategy random it
    is their mask. Without own hard negatives in the base theirs does not vary.
    """
    if base.masks.strategy in ("none", "exchange"):
        base = replace(base, masks=replace(base.masks, strategy="balanced"))
    grid = ["masks.query_ratio=0.05:0.15,0.05:0.25,0.15:0.35,0.25:0.5,0.75"]
    if getattr(base.method, "num_hard_negatives", 0):
        grid.append("masks.negative_ratio=0.2:0.4,0.4:0.7,0.7:0.9")
    return NamedSpace(base, parse_space(grid=grid))


def mask_full(base: PretrainConfig) -> NamedSpace:
    """Fill, strategy, foreground rule, and the rho that has an effect: 24 random points."""
    fills, strategies = "fill=mean,blur,high_pass", "masks.strategy=random,balanced,shuffled"
    numbers, idle = ["masks.foreground_threshold=-1.2..0.3"], base.method.idle()
    for name, interval in (("object_rho", "1..4"), ("rho", "0.5..2")):
        if hasattr(base.method, name) and name not in idle:
            numbers.append(f"method.{name}={interval}")
    choices = [fills, strategies, "masks.foreground=std,otsu"]
    space = parse_space(choice=choices, uniform=numbers)
    return NamedSpace(base, space, num_trials=24)


def exchange(base: PretrainConfig) -> NamedSpace:
    """Share of the queries that stand on another image's background: a grid of 4."""
    base = replace(base, masks=replace(base.masks, strategy="exchange"))
    return NamedSpace(base, parse_space(grid=["masks.probability=0.15,0.3,0.6,0.9"]))


def crops(base: PretrainConfig) -> NamedSpace:
    """Least share of the image in a crop, and of the foreground: a grid of 12.

    Which crops are best depends on the images; on made pictures they matter as much as the method
    (tests/benchmarks/RESULTS.md).
    """
    scales = "views.crop_scale=0.2:1,0.4:1,0.6:1,0.8:1"
    return NamedSpace(base, parse_space(grid=[scales, "views.object_share=0,0.6,0.9"]))


def data_scaling(base: PretrainConfig) -> NamedSpace:
    """Share of the data times epochs: a grid of 12 whose trials all run to their end.

    Measures the held-out loss, on the shards of the kNN check if no others are given, and the same
    loss on seen images. An epoch has as many steps at every share, and so has a trial.
    """
    held = base.heldout.shards or base.knn.val_shards
    heldout = replace(base.heldout, shards=held, seen=held is not None)
    base = replace(base, heldout=heldout, epoch_steps="all")
    epochs = {str(max(1, base.epochs // part)): None for part in (4, 2, 1)}
    space = parse_space(grid=["data_fraction=0.125,0.25,0.5,1.0", f"epochs={','.join(epochs)}"])
    return NamedSpace(base, space, scheduler="none")


SPACES: dict[str, Callable[[PretrainConfig], NamedSpace]] = {
    "mask_ratio": mask_ratio,
    "mask_full": mask_full,
    "exchange": exchange,
    "crops": crops,
    "data_scaling": data_scaling,
}


def find_space(name: str | None, base: PretrainConfig) -> NamedSpace:
    """The space of a name, or `InputError` with the known ones; without a name nothing varies."""
    known = ", ".join(SPACES)
    check(name is None or name in SPACES, f"unknown space {name!r}: choose one of {known}")
    return NamedSpace(base) if name is None else SPACES[name](base)
