"""Named search spaces, each with the changes that it makes to the base configuration."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.sweep.space import Interval, Space, Values

Scheduler = Literal["asha", "none"]


@dataclass(frozen=True)
class NamedSpace:
    """What varies in which pretraining, and defaults; `num_trials` None: all points of a grid."""

    base: PretrainConfig
    space: Space = field(default_factory=dict)
    num_trials: int | None = None
    scheduler: Scheduler = "asha"


def mask_ratio(base: PretrainConfig) -> NamedSpace:
    """Ranges of the masking ratio of the query and of the hard negatives: a grid of 12.

    The query is masked, by strategy balanced if the base masks nothing.
    """
    if base.masks.strategy == "none":
        base = replace(base, masks=replace(base.masks, strategy="balanced"))
    queries = Values("grid", ("0.05:0.15", "0.05:0.25", "0.15:0.35", "0.25:0.5"))
    negatives = Values("grid", ("0.2:0.4", "0.4:0.7", "0.7:0.9"))
    return NamedSpace(base, {"masks.query_ratio": queries, "masks.negative_ratio": negatives})


def mask_full(base: PretrainConfig) -> NamedSpace:
    """Fill, strategy, foreground rule, and rho if the method has one: 24 random points."""
    space: Space = {
        "fill": Values("choice", ("mean", "blur", "high_pass")),
        "masks.strategy": Values("choice", ("random", "balanced", "shuffled")),
        "masks.foreground": Values("choice", ("std", "otsu")),
        "masks.foreground_threshold": Interval("uniform", -1.2, 0.3),
    }
    if base.method.has_object_head:
        space["method.object_rho"] = Interval("uniform", 1.0, 4.0)
    elif hasattr(base.method, "rho"):
        space["method.rho"] = Interval("uniform", 0.5, 2.0)
    return NamedSpace(base, space, num_trials=24)


def data_scaling(base: PretrainConfig) -> NamedSpace:
    """Share of the data times epochs: a grid of 12 whose trials all run to their end.

    Measures the held-out loss, on the shards of the kNN check if no others are given.
    """
    if base.heldout.shards is None:
        base = replace(base, heldout=replace(base.heldout, shards=base.knn.val_shards))
    epochs = tuple(dict.fromkeys(max(1, base.epochs // part) for part in (4, 2, 1)))
    space: Space = {
        "data_fraction": Values("grid", (0.125, 0.25, 0.5, 1.0)),
        "epochs": Values("grid", epochs),
    }
    return NamedSpace(base, space, scheduler="none")


SPACES: dict[str, Callable[[PretrainConfig], NamedSpace]] = {
    "mask_ratio": mask_ratio,
    "mask_full": mask_full,
    "data_scaling": data_scaling,
}


def find_space(name: str | None, base: PretrainConfig) -> NamedSpace:
    """The space of a name; without a name nothing varies.

    Raises:
        InputError: the name is unknown; lists the known ones.
    """
    if name is None:
        return NamedSpace(base)
    if name not in SPACES:
        raise InputError(f"unknown space {name!r}: choose one of {', '.join(SPACES)}")
    return SPACES[name](base)
