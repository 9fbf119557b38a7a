"""Maskers: they draw numbers in the loader and choose the masked pixels of views on the device.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side,
`N` = G * G patches, `H W` pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import check
from pipeline.images.filters import REFERENCE_VIEW_SIZE
from training.randomness.draws import Stream, uniforms, view_number
from training.views.fills import NEGATIVE_NOISE_STD, VIEW_NOISE_STD
from training.views.patches import (
    MASK_STRATEGIES,
    NEGATIVE_PATCHES,
    Counting,
    Strategy,
    StrategyInputs,
    patches_to_pixels,
)
from training.views.settings import STRATEGIES, MaskConfig, ViewConfig

NUM_CHANNELS = 3
QUERY_BOX_SIDE_AT_224, NEGATIVE_BOX_SIDE_AT_224 = 200, 130
"""Sides in pixels, at 224 px, of the box that a focal mask leaves visible in a query or key, and of
the one that it hides in a hard negative."""
FOCAL_PROBABILITY, SPATIAL_PROBABILITY = 0.20, 0.24
"""Of two of the high-pass fill's mask shapes; the third, channel-wise, has the remaining 0.56."""
ATTMASK_PROBABILITY, EXCHANGE_PROBABILITY = 0.5, 0.3
"""Default share of masked views: AttMask's (arXiv 2203.12719), and that of strategy exchange."""


class MaskerInputs(NamedTuple):
    """What a masker knows of a batch of views, on the device."""

    foreground_BGG: Tensor
    """Bool; with `steered_by_next` that of the next image in the global batch."""
    saliency_BGG: Tensor
    """Float in [0, 1]."""
    view_size: int
    """Side of the views in pixels."""
    next_foreground_BGG: Tensor | None
    """Bool, of the next image in the global batch, where it lends its background."""
    view_BCHW: Tensor | None = None
    """The prepared, unmasked views, for a masker that sees them."""


class Masker(ABC):
    """Chooses the masked pixels of a view."""

    masks: bool = True
    """False: it never masks anything."""
    steered_by_next: bool = False
    """Whether the next image's saliency steers it."""
    sees_view: bool = False
    """Whether it sees the prepared, unmasked view."""
    noise_std: float = VIEW_NOISE_STD
    """Standard deviation of the noise in masked pixels, where the fill is noise."""

    @abstractmethod
    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> Any:  # noqa: ANN401
        """Draw the numbers that decide the masks of a view, from the samples' seeds.

        Returns:
            A named tuple of CPU tensors whose first dimension is B.
        """

    @abstractmethod
    def mask(self, draws: Any, inputs: MaskerInputs) -> Tensor:  # noqa: ANN401  (of `draw`)
        """The masked pixels: bool, `[B, C, H, W]`; draws and inputs are on the device."""


class MaskDraws(NamedTuple):
    """The numbers that decide the masks of one view of each sample; drawn on the CPU."""

    ratio_B: Tensor
    """Masking ratio, float64."""
    scores_BCN: Tensor
    """Uniform in [0, 1), float32; a stratum's lowest are masked."""
    shape_B: Tensor
    """Uniform in [0, 1), float32: which of the high-pass fill's three shapes."""
    box_B4: Tensor
    """Top, left, bottom, right of the focal box in pixels, int64; the last two exclusive."""
    apply_B: Tensor
    """Uniform in [0, 1), float32: whether a view is masked at all, where that is drawn."""
    count_B2: Tensor
    """Uniform in [0, 1), float64: rounds the number of masked patches of each stratum, where that
    is drawn (`patches.masked_counts`)."""

    @property
    def focal_B(self) -> Tensor:
        """Which images have a focal mask where shapes are drawn, bool."""
        return self.shape_B < FOCAL_PROBABILITY

    @property
    def channel_wise_B(self) -> Tensor:
        """Which images have their channels masked apart where shapes are drawn, bool."""
        return self.shape_B >= FOCAL_PROBABILITY + SPATIAL_PROBABILITY


def float32(values: NDArray[np.float64]) -> Tensor:
    """Uniform numbers in [0, 1) as float32, still below 1."""
    # Cut to 24 bits first: rounding to the nearest float32 could give 1.
    return torch.from_numpy((np.floor(values * 2.0**24) * 2.0**-24).astype(np.float32))


def draw_masks(
    seeds_B: NDArray[np.uint64],
    *,
    view: int,
    ratio: tuple[float, float],
    grid: int,
    view_size: int,
    box_side: int,
) -> MaskDraws:
    """Draw the numbers that decide the masks of one view of each sample.

    The ratio is uniform in its range, the position of the focal box, of `box_side` pixels, uniform
    inside the view; `view` is its number (`draws.view_number`).
    """
    low, high = ratio
    ratio_B = low + (high - low) * uniforms(seeds_B, view, Stream.MASK_RATIO, 1)[:, 0]
    scores = uniforms(seeds_B, view, Stream.MASK_SCORES, NUM_CHANNELS * grid * grid)
    positions = view_size - box_side + 1
    corner_B2 = (uniforms(seeds_B, view, Stream.MASK_BOX, 2) * positions).astype(np.int64)
    return MaskDraws(
        ratio_B=torch.from_numpy(ratio_B),
        scores_BCN=float32(scores).reshape(-1, NUM_CHANNELS, grid * grid),
        shape_B=float32(uniforms(seeds_B, view, Stream.MASK_SHAPE, 1)[:, 0]),
        box_B4=torch.from_numpy(np.concatenate((corner_B2, corner_B2 + box_side), axis=1)),
        apply_B=float32(uniforms(seeds_B, view, Stream.MASK_APPLY, 1)[:, 0]),
        count_B2=torch.from_numpy(uniforms(seeds_B, view, Stream.MASK_COUNT, 2)),
    )


def scaled_side(side_at_224: int, view_size: int) -> int:
    """Scale a side stated for 224 px views: the nearest whole number of pixels, at least 1."""
    return max(1, round(side_at_224 * view_size / REFERENCE_VIEW_SIZE))


@dataclass(frozen=True, kw_only=True)
class PatchMasker(Masker):
    """Masks patches of the grid.

    With the high-pass fill (`high_pass`) each image has one of three shapes: focal (a box, whatever
    the saliency), spatial (the same patches in all channels) or channel-wise (patches drawn for
    each channel apart).
    """

    config: MaskConfig
    high_pass: bool
    strategy: Strategy
    ratio: tuple[float, float]
    """Least and greatest masking ratio."""
    share: float = 1.0
    """Share of the views that are masked, in [0, 1]."""
    masks: bool = True
    hides_object: bool = False
    """Whether the focal shape masks its box, and not everything outside it."""
    noise_std: float = VIEW_NOISE_STD

    @property
    def steered_by_next(self) -> bool:  # type: ignore[override]
        """With strategy `shuffled`, a control, another image's saliency steers all masks."""
        return self.config.strategy == "shuffled"

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> MaskDraws:
        """Draw what decides the patches."""
        side = NEGATIVE_BOX_SIDE_AT_224 if self.hides_object else QUERY_BOX_SIDE_AT_224
        return draw_masks(
            seeds_B,
            view=view_number(view),
            ratio=self.ratio,
            grid=cut.grid,
            view_size=cut.size,
            box_side=scaled_side(side, cut.size),
        )

    def mask(self, draws: MaskDraws, inputs: MaskerInputs) -> Tensor:
        """The masked pixels: bool, `[B, 3 with the high-pass fill, else 1, H, W]`."""
        config, scores_BCN = self.config, draws.scores_BCN[:, :1]
        if self.high_pass:
            apart_B11 = draws.channel_wise_B[:, None, None]
            scores_BCN = torch.where(apart_B11, draws.scores_BCN, scores_BCN)
        round_B2 = draws.count_B2 if config.count == "matched" else None
        patches_BCN = self.strategy(
            StrategyInputs(
                foreground_BN=inputs.foreground_BGG.flatten(1),
                saliency_BN=inputs.saliency_BGG.flatten(1),
                scores_BCN=scores_BCN,
                ratio_B=draws.ratio_B,
                show=config.attmask.show,
                counting=Counting(self.high_pass, config.behaviour == "released", round_B2),
                boost=config.soft_high_boost,
                top=config.soft_high_top,
            )
        )
        if self.high_pass:
            patches_BCN = patches_BCN & ~draws.focal_B[:, None, None]
        mask_BCHW = patches_to_pixels(patches_BCN, inputs.view_size)
        if self.high_pass and self.masks:
            self._add_focal(mask_BCHW, draws)
        if self.share < 1.0:
            mask_BCHW &= (draws.apply_B < self.share)[:, None, None, None]
        swaps = (config.strategy, config.exchange, self.hides_object) == ("exchange", "swap", False)
        if inputs.next_foreground_BGG is not None and swaps:
            mask_BCHW &= has_background(inputs.next_foreground_BGG)[:, None, None, None]
        return mask_BCHW

    def _add_focal(self, mask_BCHW: Tensor, draws: MaskDraws) -> None:
        """Mask the box of images with a focal mask, or everything outside it."""
        # Bytes of 0 and 1, which torch vectorises, unlike bools.
        focal_B111 = draws.focal_B[:, None, None, None].view(torch.uint8)
        pixel = torch.arange(mask_BCHW.shape[-1], device=mask_BCHW.device)
        inside_B2S = (pixel >= draws.box_B4[:, :2, None]) & (pixel < draws.box_B4[:, 2:, None])
        crossed_B2S = (inside_B2S if self.hides_object else ~inside_B2S).view(torch.uint8)
        rows, columns = crossed_B2S[:, :1, :, None], crossed_B2S[:, 1:, None, :]
        if self.hides_object:
            mask_BCHW.view(torch.uint8).bitwise_or_((focal_B111 & rows) & columns)
        else:
            mask_BCHW.view(torch.uint8).bitwise_or_((focal_B111 & rows) | (focal_B111 & columns))


def strategy_masker(config: MaskConfig, high_pass: bool) -> PatchMasker:
    """The masks of queries and keys, by a strategy (`patches.MASK_STRATEGIES`)."""
    name, share = config.strategy, config.probability
    if share is None and name == "exchange":
        share = EXCHANGE_PROBABILITY
    elif share is None:
        share = ATTMASK_PROBABILITY if name.startswith("attmask") else 1.0
    return PatchMasker(
        config=config,
        high_pass=high_pass,
        strategy=MASK_STRATEGIES[name],
        ratio=config.attmask.ratio if name.startswith("attmask") else config.query_ratio,
        share=share,
        masks=name != "none",
    )


def object_hider(config: MaskConfig, high_pass: bool) -> PatchMasker:
    """The masks of hard negatives: patches of the object."""
    return PatchMasker(
        config=config,
        high_pass=high_pass,
        strategy=NEGATIVE_PATCHES[config.negative_patches],
        ratio=config.negative_ratio,
        hides_object=True,
        noise_std=NEGATIVE_NOISE_STD,
    )


def has_background(foreground_BGG: Tensor) -> Tensor:
    """Which views have background patches: bool, `[B]`."""
    return ~foreground_BGG.flatten(1).all(dim=1)


MASKERS: dict[str, Callable[[MaskConfig, bool], Masker]] = {}
"""Maskers of strategies that choose pixels in a way of their own, by name."""


def masker_named(config: MaskConfig, *, high_pass: bool) -> Masker:
    """The masker of a strategy, with the shapes of the high-pass fill if that is used.

    Raises:
        InputError: this process does not know the strategy.
    """
    check_strategy(config.strategy)
    return MASKERS.get(config.strategy, strategy_masker)(config, high_pass)


def check_strategy(name: str) -> None:
    """Raise ``InputError`` for an unknown strategy; the message lists the known ones."""
    known = {**MASK_STRATEGIES, **MASKERS}
    names = dict.fromkeys((*STRATEGIES, *known))
    check(name in known, f"unknown mask strategy {name!r}: choose from {', '.join(names)}")
