"""What an encoder sees, as declared values.

A method declares its views (`Method.views`). The stream draws and cuts them, `build_inputs` masks
and fills them, contact sheet and report show them: all of them read this declaration.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.foreground import Rule, map_foreground
from pipeline.saliency.mask_generator import MaskGenerator
from training.randomness.draws import KEY, QUERY
from training.views.exchange import BackgroundMasker, BackgroundSwap, PatchSwap
from training.views.fills import FILLS, Fill
from training.views.learned import LearnedMasker
from training.views.maskers import Masker, masker_named, object_hider
from training.views.matched import ObjectMasker, ObjectSwap
from training.views.settings import MaskConfig, ViewConfig

OBJECT_TRIES = 10
"""Draws at most of a crop that is to show a share of the foreground."""

EXCHANGED, LOCAL, MATCHED = "exchanged", "local", "matched"


@dataclass(frozen=True, kw_only=True)
class ObjectAware:
    """Crops that show too little of the foreground of an image's whole map are drawn again."""

    rule: Rule
    threshold: float
    """Of rule `std`."""
    tries: int
    """Draws at most."""
    share: float | None
    """Of the foreground, that a crop shows at least; None: half of one patch is foreground."""

    def mark(self, maps_BPP: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The foreground of stored maps."""
        return map_foreground(maps_BPP, rule=self.rule, threshold=self.threshold)

    def enough(self, marked_BPP: NDArray[np.bool_]) -> NDArray[np.float64]:
        """What a crop is to show: a share of one of its patches, or of the whole image."""
        if self.share is None:
            return np.full(len(marked_BPP), 0.5)
        whole_B = marked_BPP.mean(axis=(1, 2))
        return np.asarray(np.where(whole_B < 1, self.share * whole_B, 0), np.float64)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One geometry and one colour draw of every image; several views may share it."""

    name: str
    """Decides what is drawn."""
    cut: ViewConfig
    aware: ObjectAware | None = None


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """One view of every image."""

    name: str
    """Decides what is drawn for its mask."""
    crop: Crop
    masker: Masker | None = None
    fill: Fill | PatchSwap
    """What stands in masked pixels."""


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """The run's settings that views are declared from, and the views that methods share.

    The fill is that of masked pixels, and also prepares all views.
    """

    cut: ViewConfig
    masks: MaskConfig
    fill: Fill

    def crop(self, name: str) -> Crop:
        """A crop of the run's size."""
        share = self.cut.object_share
        return Crop(name=name, cut=self.cut, aware=self._aware(OBJECT_TRIES if share else 1, share))

    def _aware(self, tries: int, share: float | None) -> ObjectAware | None:
        """The run's foreground rule, where crops are drawn more than once."""
        rule, threshold = self.masks.foreground, self.masks.foreground_threshold
        if tries == 1:
            return None
        return ObjectAware(rule=rule, threshold=threshold, tries=tries, share=share)

    def strategy_view(self, name: str, *, branch: str) -> ViewSpec:
        """A view with a crop of its own name, masked if `branch`, `query` or `key`, is masked."""
        if self.masks.branch not in (branch, "both"):
            return ViewSpec(name=name, crop=self.crop(name), fill=self.fill)
        fill: Fill | PatchSwap = self.fill
        if self.masks.strategy == "exchange":
            fill = BackgroundSwap(name) if self.masks.exchange == "swap" else FILLS["mean"]
        masker = masker_named(self.masks, high_pass=self.fill.high_pass)
        return ViewSpec(name=name, crop=self.crop(name), masker=masker, fill=fill)

    def query(self, name: str = QUERY) -> ViewSpec:
        """A query."""
        return self.strategy_view(name, branch=QUERY)

    def key(self, name: str = KEY) -> ViewSpec:
        """A key."""
        return self.strategy_view(name, branch=KEY)

    def hard_negative(self, source: str, index: int) -> ViewSpec:
        """The hard negative of number `index`: a crop, named `source`, without its object."""
        masker = object_hider(self.masks, self.fill.high_pass)
        name = f"negative-{source}-{index}"
        return ViewSpec(name=name, crop=self.crop(source), masker=masker, fill=self.fill)

    def matched_negative(self, source: str) -> ViewSpec:
        """A hard negative: the next image's object on the background of the crop `source`."""
        crop, fill = self.crop(source), ObjectSwap(source)
        return ViewSpec(name=f"{MATCHED}-{source}-0", crop=crop, masker=ObjectMasker(), fill=fill)

    def local_crops(self) -> tuple[ViewSpec, ...]:
        """The run's local crops, unmasked."""
        names = [f"{LOCAL}-{index}" for index in range(self.cut.local)]
        cut = self.cut.of_local_crops if names else self.cut
        aware = self._aware(cut.local_tries, None)
        crops = [Crop(name=name, cut=cut, aware=aware) for name in names]
        return tuple(ViewSpec(name=crop.name, crop=crop, fill=self.fill) for crop in crops)

    def exchanged(self, probability: float) -> ViewSpec:
        """A further copy of the query; such a share of them is on another image's background."""
        return ViewSpec(
            name=EXCHANGED,
            crop=self.crop(QUERY),
            masker=BackgroundMasker(probability, QUERY),
            fill=BackgroundSwap(QUERY),
        )


def crops_of(views: tuple[ViewSpec, ...]) -> tuple[Crop, ...]:
    """The crops of some views, each once, in order."""
    crops = tuple(dict.fromkeys(view.crop for view in views))
    assert len({crop.name for crop in crops}) == len(crops), [crop.name for crop in crops]
    assert len({view.name for view in views}) == len(views), [view.name for view in views]
    return crops


def with_generator(
    views: tuple[ViewSpec, ...], generator: MaskGenerator, mix: float
) -> tuple[ViewSpec, ...]:
    """The views with learned masks, `mix` of them, by a generator; the others stay."""
    return tuple(
        replace(view, masker=replace(view.masker, generator=generator, mix=mix))
        if isinstance(view.masker, LearnedMasker)
        else view
        for view in views
    )
