"""Named search spaces. Every one has a base that it asks for, which the command line can change."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.sweep.space import Interval, Search, Space, Values


@dataclass(frozen=True, kw_only=True)
class NamedSpace:
    """What a name stands for.

    Attributes:
        space: what varies.
        search: how points are chosen.
        num_trials: None: all points of a grid.
        scheduler: None: the job's own default.
    """

    space: Space
    search: Search
    num_trials: int | None = None
    scheduler: str | None = None


QUERY_RATIOS = ("0.05:0.15", "0.05:0.25", "0.15:0.35", "0.25:0.5")
NEGATIVE_RATIOS = ("0.2:0.4", "0.4:0.7", "0.7:0.9")


def mask_ratio(_base: PretrainConfig) -> NamedSpace:
    """Ranges of the masking ratio of the query and of the hard negatives: a grid of 12."""
    return NamedSpace(
        space={
            "masks.query_ratio": Values("grid", QUERY_RATIOS),
            "masks.negative_ratio": Values("grid", NEGATIVE_RATIOS),
        },
        search="grid",
    )


def mask_full(base: PretrainConfig) -> NamedSpace:
    """Fill, strategy, foreground rule, and (but for BYOL) rho: 24 random points."""
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
    return NamedSpace(space=space, search="random", num_trials=24)


def data_scaling(base: PretrainConfig) -> NamedSpace:
    """Share of the data times epochs: a grid of 12 that runs to its end, and is never cut short."""
    epochs = tuple(dict.fromkeys(max(1, base.epochs // part) for part in (4, 2, 1)))
    return NamedSpace(
        space={
            "data_fraction": Values("grid", (0.125, 0.25, 0.5, 1.0)),
            "epochs": Values("grid", epochs),
        },
        search="grid",
        scheduler="none",
    )


SPACES: dict[str, Callable[[PretrainConfig], NamedSpace]] = {
    "mask_ratio": mask_ratio,
    "mask_full": mask_full,
    "data_scaling": data_scaling,
}


def find_space(name: str, base: PretrainConfig) -> NamedSpace:
    """Looks a space up; an unknown name raises ``InputError`` with the known ones."""
    if name not in SPACES:
        raise InputError(f"unknown space {name!r}: choose one of {', '.join(SPACES)}")
    return SPACES[name](base)


def prepared(name: str, base: PretrainConfig) -> PretrainConfig:
    """The base configuration with what a named space needs.

    ``data_scaling`` measures the held-out loss, on the shards of the kNN check where no others are
    given. ``mask_ratio`` masks the query, by strategy balanced where the base masks nothing.
    """
    if name == "mask_ratio" and base.masks.strategy == "none":
        return replace(base, masks=replace(base.masks, strategy="balanced"))
    if name == "data_scaling" and base.heldout.shards is None:
        return replace(base, heldout=replace(base.heldout, shards=base.knn.val_shards))
    return base
