"""Settings of views: crops, colours and masks. They import no torch."""

import importlib
import math
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.core.errors import check
from pipeline.saliency.foreground import check_rule

FILL_NAMES = ("mean", "blur", "high_pass")
STRATEGIES = (
    "none",
    "random",
    "balanced",
    "shuffled",
    "attmask_high",
    "attmask_hint",
    "attmask_low",
    "exchange",
    "soft_high",
    "learned",
)


def _check_range(name: str, limits: tuple[float, float]) -> None:
    low, high = limits
    check(0 <= low <= high <= 1, f"{name} is {low} to {high}: wanted 0 <= low <= high <= 1")


def check_fill(name: str) -> None:
    """Raise ``InputError`` unless the fill is known, here or registered at run time."""
    if name not in FILL_NAMES:
        importlib.import_module("training.views.fills").fill_named(name)


@dataclass(frozen=True, kw_only=True)
class AttMaskConfig:
    """Settings of the three `attmask` strategies; the defaults are those of arXiv 2203.12719.

    Attributes:
        ratio: least and greatest masking ratio, of all patches of a view, in [0, 1].
        show: share, in [0, 1], of the masked patches that attmask_hint shows again, out of the same
            share of a view's most salient ones.
    """

    ratio: tuple[float, float] = (0.1, 0.5)
    show: float = 0.1

    def __post_init__(self) -> None:
        _check_range("masks.attmask.ratio", self.ratio)
        check(0 <= self.show <= 1, f"masks.attmask.show {self.show} must be in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class LearnedConfig:
    """Settings of strategy `learned`, whose masks a small network, the generator, chooses.

    Attributes:
        kind: topk: the patches of highest logit plus noise; slots: patches are shared out among
            maps, one of which is hidden; sequential: topk in passes that see what is hidden.
        width: channels of the generator, 32 or more, a multiple of 32.
        lr: learning rate of the generator (Adam), above 0.
        start_epoch: epoch from which learned masks are mixed in, 0 or more.
        ramp_epochs: epochs over which their share then rises from 0, 0 or more.
        mix: greatest share of the queries with a learned mask, in [0, 1]; the others have a
            balanced one.
        temperature: tau of the relaxed masks, above 0.
        num_slots: maps of kind slots, 2 or more.
        area_penalty: of kind slots: weight of 1 / sin(pi * a map's share of the view), 0 or more.
        num_passes: of kind sequential, 1 or more.
        compare: whether the loss is measured under random masks, too: an encoder pass a step.
    """

    kind: Literal["topk", "slots", "sequential"] = "topk"
    width: int = 64
    lr: float = 1e-3
    start_epoch: float = 1.0
    ramp_epochs: float = 5.0
    mix: float = 0.5
    temperature: float = 1.0
    num_slots: int = 4
    area_penalty: float = 0.75
    num_passes: int = 2
    compare: bool = True

    def __post_init__(self) -> None:
        least = {"width": 32, "num_slots": 2, "num_passes": 1}
        for name in (
            "width",
            "start_epoch",
            "ramp_epochs",
            "num_slots",
            "area_penalty",
            "num_passes",
        ):
            value, low = getattr(self, name), least.get(name, 0)
            check(low <= value < math.inf, f"masks.learned.{name} {value} must be {low} or more")
        for name in ("lr", "temperature"):
            value = getattr(self, name)
            check(0 < value < math.inf, f"masks.learned.{name} {value} must be above 0")
        check(0 <= self.mix <= 1, f"masks.learned.mix {self.mix} must be in [0, 1]")
        check(self.width % 32 == 0, f"masks.learned.width {self.width} must be a multiple of 32")
        kinds = ("topk", "slots", "sequential")
        known = f"choose from {', '.join(kinds)}"
        check(self.kind in kinds, f"unknown masks.learned.kind {self.kind!r}: {known}")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How views are masked.

    The defaults but for the foreground rule are the paper's (arXiv 2309.12757, section 3).

    Attributes:
        strategy: which patches of a view are masked. none; random; balanced: about the same share
            of the foreground and of the background; shuffled: the same by another image's
            foreground, a control; attmask_high, attmask_hint, attmask_low: by the order of the
            saliency; exchange: the query's whole background (masks.exchange); soft_high: random,
            but rather salient ones; learned: the query's by a network (masks.learned).
        exchange: what strategy exchange puts in the query's background: that of another image, or
            the view's mean.
        probability: share of the views that the strategy masks, in [0, 1]; none: 0.5 for attmask_*,
            0.3 for exchange, else 1.
        count: how many patches a ratio masks: as the paper rounds, or rounded up or down at random
            in each stratum, so that every patch is masked with the same probability whatever the
            strategy.
        branch: which view is masked.
        query_ratio: least and greatest masking ratio of a masked query or key, of all its patches,
            in [0, 1] (not attmask).
        negative_ratio: least and greatest masking ratio of a hard negative, of its foreground
            patches, in [0, 1].
        negative_patches: what a hard negative hides: foreground patches, or as many of all patches
            (a control).
        foreground: which patches are foreground: those from mean + masks.foreground-threshold * std
            of their view's saliency on (std, the paper's rule), or the upper class of Otsu's
            threshold.
        foreground_threshold: of masks.foreground std: a patch is foreground from mean + this * std
            of its view's saliency on; any finite number.
        soft_high_boost: added by soft_high to the uniform scores of salient patches, 0 or more: 0
            makes masks random, from 1 on salient patches go first; AutoMAE's (arXiv 2303.06583).
        soft_high_top: share of the patches, the most salient ones, that are boosted; in [0, 1].
        behaviour: released does what the code published with the paper does, where it departs from
            the paper: see `training.views.released`.
    """

    strategy: str = "balanced"
    exchange: Literal["swap", "grey"] = "swap"
    probability: float | None = None
    count: Literal["paper", "matched"] = "paper"
    branch: Literal["query", "key", "both"] = "query"
    query_ratio: tuple[float, float] = (0.05, 0.25)
    negative_ratio: tuple[float, float] = (0.4, 0.7)
    negative_patches: Literal["object", "random"] = "object"
    foreground: Literal["std", "otsu"] = "otsu"
    foreground_threshold: float = -0.6
    attmask: AttMaskConfig = field(default_factory=AttMaskConfig)
    soft_high_boost: float = 0.5
    soft_high_top: float = 0.25
    learned: LearnedConfig = field(default_factory=LearnedConfig)
    behaviour: Literal["paper", "released"] = "paper"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:  # perhaps registered at run time
            importlib.import_module("training.views.maskers").check_strategy(self.strategy)
        for name, known in (
            ("exchange", ("swap", "grey")),
            ("count", ("paper", "matched")),
            ("branch", ("query", "key", "both")),
            ("negative_patches", ("object", "random")),
            ("behaviour", ("paper", "released")),
        ):
            value, choices = getattr(self, name), ", ".join(known)
            check(value in known, f"unknown masks.{name} {value!r}: choose from {choices}")
        _check_range("masks.query_ratio", self.query_ratio)
        _check_range("masks.negative_ratio", self.negative_ratio)
        check_rule(self.foreground, self.foreground_threshold)
        boost, top, share = self.soft_high_boost, self.soft_high_top, self.probability
        check(0 <= boost < math.inf, f"masks.soft_high_boost {boost} must be 0 or more")
        check(0 <= top <= 1, f"masks.soft_high_top {top} must be in [0, 1]")
        check(share is None or 0 <= share <= 1, f"masks.probability {share} must be in [0, 1]")
        check(
            self.strategy not in ("exchange", "learned") or self.branch == "query",
            f"masks.strategy {self.strategy} changes the query only: masks.branch "
            f"{self.branch} must be query",
        )


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How views are cut.

    Attributes:
        size: side of a view in pixels, 1 or more.
        grid: patches along a side, 1 or more; must divide the size (7 at 224 px in the paper).
        crop_scale: least and greatest share of the image's area in a crop, in (0, 1].
        crop_aspect: least and greatest width / height of a crop, above 0.
        flip_probability: chance of a horizontal flip, in [0, 1].
        object_share: share of an image's foreground that a crop shows at least, in [0, 1]. One that
            shows less is drawn again, up to nine times; if none shows enough, the one that shows
            the most counts. 0: off.
        local: further, smaller crops of every image, 0 or more, where the method takes them.
        local_size: side of a local crop in pixels, 1 or more; a multiple of size / grid.
        local_scale: least and greatest share of the image's area in a local crop, in (0, 1].
        local_tries: draws of a local crop at most, 1 or more: one is drawn again while none of its
            patches is foreground by half; 1: the first one counts.
    """

    size: int = 224
    grid: int = 7
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    object_share: float = 0.0
    local: int = 0
    local_size: int = 96
    local_scale: tuple[float, float] = (0.05, 0.3)
    local_tries: int = 1

    def __post_init__(self) -> None:
        check(
            self.grid >= 1 and self.size >= self.grid and self.size % self.grid == 0,
            f"views.size {self.size} is not divisible by views.grid {self.grid}: "
            "choose a size that is a multiple of the grid (224 and 7, 64 and 8)",
        )
        for name in ("crop_scale", "local_scale"):
            low, high = getattr(self, name)
            check(0 < low <= high <= 1, f"views.{name} {(low, high)} must rise within (0, 1]")
        aspect, flips, patch = self.crop_aspect, self.flip_probability, self.size // self.grid
        check(0 < aspect[0] <= aspect[1], f"views.crop_aspect {aspect} must rise from above 0")
        share = self.object_share
        check(0 <= flips <= 1, f"views.flip_probability {flips} must be in [0, 1]")
        check(0 <= share <= 1, f"views.object_share {share} must be in [0, 1]")
        check(self.local >= 0, f"views.local {self.local} must not be negative")
        for name in ("local_size", "local_tries"):
            check(getattr(self, name) >= 1, f"views.{name} {getattr(self, name)} must be 1 or more")
        check(
            not self.local or self.local_size % patch == 0,
            f"views.local_size {self.local_size} is not a multiple of a patch's side, {patch} px "
            "(views.size / views.grid)",
        )
        check(
            not self.local or self.local_size <= self.size,
            f"views.local_size {self.local_size} is larger than a view, {self.size} px "
            "(views.size): choose at most that",
        )

    @property
    def of_local_crops(self) -> "ViewConfig":
        """How local crops are cut: patches are as large as in the others."""
        return replace(
            self,
            size=self.local_size,
            grid=self.local_size * self.grid // self.size,
            crop_scale=self.local_scale,
            object_share=0.0,
            local=0,
        )


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges and probabilities of the colour augmentation; the defaults are MoCo v2's.

    Attributes:
        brightness: its factor is drawn from 1 - this to 1 + this; in [0, 1].
        contrast: its factor is drawn from 1 - this to 1 + this; in [0, 1].
        saturation: its factor is drawn from 1 - this to 1 + this; in [0, 1].
        hue: its shift is drawn from - this to + this, in turns of the colour circle; in [0, 0.5].
        jitter_probability: how often the four above are applied, in [0, 1].
        grey_probability: how often a view becomes grey, in [0, 1].
        blur_probability: how often a view is blurred, in [0, 1].
        blur_sigma: least and greatest sigma of the blur in pixels, above 0.
        scale_blur: whether blur_sigma is for 224 px and scales with the view, or is meant as it
            stands.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    scale_blur: bool = True

    def __post_init__(self) -> None:
        limits = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
        limits |= dict.fromkeys(("jitter_probability", "grey_probability", "blur_probability"), 1.0)
        for name, limit in limits.items():
            value = getattr(self, name)
            check(0 <= value <= limit, f"{name} is {value}: wanted 0 to {limit}")
        low, high = self.blur_sigma
        check(0 < low <= high < math.inf, f"blur_sigma is {low} to {high}: wanted 0 < low <= high")
