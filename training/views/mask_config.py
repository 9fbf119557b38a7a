"""How views are masked: the settings."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.errors import InputError
from pipeline.saliency.foreground import check_rule
from training.randomness.draws import View
from training.views.strategies import NEGATIVE_PATCHES, mask_strategy

Strategy = Literal[
    "none",
    "random",
    "balanced",
    "shuffled",
    "attmask_high",
    "attmask_hint",
    "attmask_low",
    "exchange",
]
BRANCHES = {"query": (View.QUERY,), "key": (View.KEY,), "both": (View.QUERY, View.KEY)}
ATTMASK_PROBABILITY = 0.5
"""That of arXiv 2203.12719."""
EXCHANGE_PROBABILITY = 0.3
BEHAVIOURS = ("paper", "released")


@dataclass(frozen=True, kw_only=True)
class AttMaskConfig:
    """Settings of the three `attmask` strategies; the defaults are those of arXiv 2203.12719."""

    ratio: tuple[float, float] = (0.1, 0.5)
    """Least and greatest masking ratio, of all patches of a view, in [0, 1]."""
    show: float = 0.1
    """Share, in [0, 1], of the masked patches that attmask_hint shows again, out of the same share
    of a view's most salient ones."""

    def __post_init__(self) -> None:
        _check_range("masks.attmask.ratio", self.ratio)
        if not 0.0 <= self.show <= 1.0:
            raise InputError(f"masks.attmask.show {self.show} must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How views are masked.

    The defaults but for the foreground rule are the paper's (arXiv 2309.12757, section 3).
    """

    strategy: Strategy = "balanced"
    """Which patches of a view are masked: none; random ones; about the same share of the foreground
    and of the background (balanced), or of another image's foreground (shuffled: a control);
    attmask_*: by the order of the saliency; exchange: the query's whole background, see
    masks.exchange."""
    exchange: Literal["swap", "grey"] = "swap"
    """What strategy exchange puts in the query's background: that of another image, or the view's
    mean."""
    probability: float | None = None
    """Share of the views that the strategy masks, in [0, 1]; none: 0.5 for attmask_*, 0.3 for
    exchange, else 1."""
    count: Literal["paper", "matched"] = "paper"
    """How many patches a ratio masks: as the paper rounds, or rounded up or down at random in each
    stratum, so that every patch is masked with the same probability whatever the strategy."""
    branch: Literal["query", "key", "both"] = "query"
    """Which view is masked."""
    query_ratio: tuple[float, float] = (0.05, 0.25)
    """Least and greatest masking ratio of a masked query or key, of all its patches, in [0, 1] (not
    attmask)."""
    negative_ratio: tuple[float, float] = (0.4, 0.7)
    """Least and greatest masking ratio of a hard negative, of its foreground patches, in [0, 1]."""
    negative_patches: Literal["object", "random"] = "object"
    """What a hard negative hides: foreground patches, or as many of all patches (a control)."""
    foreground: Literal["std", "otsu"] = "otsu"
    """Which patches are foreground: those from mean + masks.foreground-threshold * std of their
    view's saliency on (std, the paper's rule), or the upper class of Otsu's threshold."""
    foreground_threshold: float = -0.6
    """Of masks.foreground std: a patch is foreground from mean + this * std of its view's saliency
    on; any finite number."""
    attmask: AttMaskConfig = field(default_factory=AttMaskConfig)
    behaviour: Literal["paper", "released"] = "paper"
    """released does what the code published with the paper does, where it departs from the paper:
    see `training.views.released`."""

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
        check_rule(self.foreground, self.foreground_threshold)
        for name, known in (
            ("exchange", ("swap", "grey")),
            ("count", ("paper", "matched")),
            ("negative_patches", tuple(NEGATIVE_PATCHES)),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"unknown masks.{name} {getattr(self, name)!r}: choose from {', '.join(known)}"
                )
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise InputError(f"masks.probability {self.probability} must be in [0, 1]")
        if self.strategy == "exchange" and self.branch != "query":
            raise InputError(
                "masks.strategy exchange changes the query only: masks.branch "
                f"{self.branch} must be query"
            )

    @property
    def masked_views(self) -> tuple[View, ...]:
        """The views that the strategy masks."""
        return BRANCHES[self.branch]

    @property
    def fills_patches(self) -> bool:
        """Whether masked patches of a view are filled (the rest of an exchange is copied)."""
        return self.strategy not in ("none", "exchange")

    @property
    def by_saliency_order(self) -> bool:
        """Whether the strategy is one of AttMask's."""
        return self.strategy.startswith("attmask")

    @property
    def masked_share(self) -> float:
        """Share of the views that the strategy masks, in [0, 1]."""
        if self.probability is not None:
            return self.probability
        if self.strategy == "exchange":
            return EXCHANGE_PROBABILITY
        return ATTMASK_PROBABILITY if self.by_saliency_order else 1.0

    @property
    def released(self) -> bool:
        """Whether the published code is followed where it departs from the paper."""
        return self.behaviour == "released"

    def ratio(self, view: int) -> tuple[float, float]:
        """Range of the masking ratio of a view, by its number (`training.randomness.draws.View`)."""
        if view >= View.NEGATIVE:
            return self.negative_ratio
        return self.attmask.ratio if self.by_saliency_order else self.query_ratio


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    if not 0.0 <= low <= high <= 1.0:
        raise InputError(f"{name} is {low} to {high}: wanted 0 <= low <= high <= 1")
