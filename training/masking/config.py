"""How views are masked: the settings."""

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import InputError
from training.data.draws import View
from training.masking.strategies import mask_strategy

Strategy = Literal[
    "none", "random", "balanced", "shuffled", "attmask_high", "attmask_hint", "attmask_low"
]
BRANCHES = {"query": (View.QUERY,), "key": (View.KEY,), "both": (View.QUERY, View.KEY)}
BEHAVIOURS = ("paper", "released")


@dataclass(frozen=True, kw_only=True)
class AttMaskConfig:
    """Settings of the three `attmask` strategies; the defaults are those of arXiv 2203.12719."""

    ratio: tuple[float, float] = (0.1, 0.5)
    """Least and greatest masking ratio, of all patches of a view, in [0, 1]."""
    probability: float = 0.5
    """How often a view is masked at all, in [0, 1]."""
    show: float = 0.1
    """Share, in [0, 1], of the masked patches that attmask_hint shows again, out of the same share
    of a view's most salient ones."""

    def __post_init__(self) -> None:
        _check_range("masks.attmask.ratio", self.ratio)
        for name in ("probability", "show"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"masks.attmask.{name} {getattr(self, name)} must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How views are masked; the defaults are the paper's (arXiv 2309.12757, section 3)."""

    strategy: Strategy = "balanced"
    """Which patches of a view are masked: none; random ones; as many of the foreground as of the
    background (balanced), or of another image's foreground (shuffled: a control); attmask_*: by
    the order of the saliency."""
    branch: Literal["query", "key", "both"] = "query"
    """Which view is masked."""
    query_ratio: tuple[float, float] = (0.05, 0.25)
    """Least and greatest masking ratio of a masked query or key, of all its patches, in [0, 1] (not
    attmask)."""
    negative_ratio: tuple[float, float] = (0.4, 0.7)
    """Least and greatest masking ratio of a hard negative, of its foreground patches, in [0, 1]."""
    foreground_threshold: float = -0.6
    """A patch is foreground from mean + this * std of its view's saliency on; any finite number."""
    attmask: AttMaskConfig = field(default_factory=AttMaskConfig)
    behaviour: Literal["paper", "released"] = "paper"
    """released does what the code published with the paper does, where it departs from the paper:
    see `training.masking.released`."""

    def __post_init__(self) -> None:
        mask_strategy(self.strategy)
        if self.branch not in BRANCHES:
            raise InputError(f"unknown branch {self.branch!r}: choose from {', '.join(BRANCHES)}")
        if self.behaviour not in BEHAVIOURS:
            raise InputError(
                f"unknown behaviour {self.behaviour!r}: choose from {', '.join(BEHAVIOURS)}"
            )
        _check_range("query_ratio", self.query_ratio)
        _check_range("negative_ratio", self.negative_ratio)
        if not math.isfinite(self.foreground_threshold):
            raise InputError(
                f"foreground_threshold is {self.foreground_threshold}: wanted a finite number"
            )

    @property
    def masked_views(self) -> tuple[View, ...]:
        """The views that the strategy masks."""
        return BRANCHES[self.branch]

    @property
    def by_saliency_order(self) -> bool:
        """Whether the strategy is one of AttMask's."""
        return self.strategy.startswith("attmask")

    @property
    def probability(self) -> float:
        """How often a view is masked at all, in [0, 1]."""
        return self.attmask.probability if self.by_saliency_order else 1.0

    @property
    def released(self) -> bool:
        """Whether the published code is followed where it departs from the paper."""
        return self.behaviour == "released"

    def ratio(self, view: int) -> tuple[float, float]:
        """Range of the masking ratio of a view, by its number (`training.data.draws.View`)."""
        if view >= View.NEGATIVE:
            return self.negative_ratio
        return self.attmask.ratio if self.by_saliency_order else self.query_ratio


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0.0 <= low <= high <= 1.0:
        raise InputError(f"{name} is {low} to {high}: wanted 0 <= low <= high <= 1")
