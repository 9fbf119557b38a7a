"""Maskers of patches: their draws, and the pixels that are masked.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side,
`N` = G * G patches, `H W` pixels.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.images.filters import REFERENCE_VIEW_SIZE
from training.randomness.draws import Stream, uniforms, view_number
from training.views.fills import NEGATIVE_NOISE_STD
from training.views.interface import Masker, MaskerInputs
from training.views.patches import (
    MASK_STRATEGIES,
    NEGATIVE_PATCHES,
    Counting,
    Strategy,
    StrategyInputs,
    patches_to_pixels,
)
from training.views.settings import MaskConfig, ViewConfig

NUM_CHANNELS = 3
QUERY_BOX_SIDE_AT_224, NEGATIVE_BOX_SIDE_AT_224 = 200, 130
"""Sides in pixels, at 224 px, of the box that a focal mask leaves visible in a query or key, and of
the one that it hides in a hard negative."""
FOCAL_PROBABILITY, SPATIAL_PROBABILITY = 0.20, 0.24
"""Of two of the high-pass fill's mask shapes; the third, channel-wise, has the remaining 0.56."""
ATTMASK_PROBABILITY, EXCHANGE_PROBABILITY = 0.5, 0.3
"""Default share of masked views: AttMask's (arXiv 2203.12719), and that of strategy exchange."""


class MaskDraws(NamedTuple):
    """The numbers that decide the masks of one view of each sample; drawn on the CPU.

    Attributes:
        ratio_B: masking ratio, float64.
        scores_BCN: uniform in [0, 1), float32; a stratum's lowest are masked.
        shape_B: uniform in [0, 1), float32: which of the high-pass fill's three shapes.
        box_B4: top, left, bottom, right of the focal box in pixels, int64; the last two exclusive.
        apply_B: uniform in [0, 1), float32: whether a view is masked at all, where that is drawn.
        count_B2: uniform in [0, 1), float64: rounds the number of masked patches of each stratum,
            where that is drawn (`patches.masked_counts`).
    """

    ratio_B: Tensor
    scores_BCN: Tensor
    shape_B: Tensor
    box_B4: Tensor
    apply_B: Tensor
    count_B2: Tensor

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

    Args:
        seeds_B: the samples' seeds (`draws.sample_seeds`).
        view: number of the view (`draws.view_number`).
        ratio: range of the masking ratio, which is uniform in it.
        grid: patches per side of a view.
        view_size: side of a view in pixels.
        box_side: side of the focal box in pixels; its position is uniform inside the view.
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


@dataclass(frozen=True)
class PatchMasker(Masker):
    """Masks patches of the grid.

    With the high-pass fill (`high_pass`) each image has one of three shapes: focal (a box, whatever
    the saliency), spatial (the same patches in all channels) or channel-wise (patches drawn for
    each channel apart).
    """

    config: MaskConfig
    high_pass: bool
    box_side_at_224: ClassVar[int]
    """Side of the focal mask's box in pixels, of a view of 224 px."""

    @property
    def steered_by_next(self) -> bool:  # type: ignore[override]
        """With strategy `shuffled`, a control, another image's saliency steers all masks."""
        return self.config.strategy == "shuffled"

    @property
    @abstractmethod
    def ratio(self) -> tuple[float, float]:
        """Least and greatest masking ratio."""

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> MaskDraws:
        """Draw what decides the patches."""
        return draw_masks(
            seeds_B,
            view=view_number(view),
            ratio=self.ratio,
            grid=cut.grid,
            view_size=cut.size,
            box_side=scaled_side(self.box_side_at_224, cut.size),
        )

    def _patch_mask(self, strategy: Strategy, draws: MaskDraws, inputs: MaskerInputs) -> Tensor:
        """Masks of whole patches, bool `[B, C, H, W]`; empty for images with a focal mask."""
        scores_BCN = draws.scores_BCN[:, :1]
        if self.high_pass:
            apart_B11 = draws.channel_wise_B[:, None, None]
            scores_BCN = torch.where(apart_B11, draws.scores_BCN, scores_BCN)
        round_B2 = draws.count_B2 if self.config.count == "matched" else None
        patches_BCN = strategy(
            StrategyInputs(
                foreground_BN=inputs.foreground_BGG.flatten(1),
                saliency_BN=inputs.saliency_BGG.flatten(1),
                scores_BCN=scores_BCN,
                ratio_B=draws.ratio_B,
                show=self.config.attmask.show,
                counting=Counting(self.high_pass, self.config.behaviour == "released", round_B2),
            )
        )
        if self.high_pass:
            patches_BCN = patches_BCN & ~draws.focal_B[:, None, None]
        return patches_to_pixels(patches_BCN, inputs.view_size)


def _box(draws: MaskDraws, view_size: int) -> tuple[Tensor, Tensor]:
    """The rows `[B, 1, H, 1]` and the columns `[B, 1, 1, W]` that each image's box crosses."""
    pixel = torch.arange(view_size, device=draws.box_B4.device)
    inside_B2S = (pixel >= draws.box_B4[:, :2, None]) & (pixel < draws.box_B4[:, 2:, None])
    return inside_B2S[:, :1, :, None], inside_B2S[:, 1:, None, :]


def _bytes(mask: Tensor) -> Tensor:
    """The same memory as bytes of 0 and 1, which torch vectorises, unlike bools."""
    return mask.view(torch.uint8)


@dataclass(frozen=True)
class StrategyMasker(PatchMasker):
    """The masks of queries and keys: a strategy by its name (`patches.MASK_STRATEGIES`).

    The focal shape masks everything outside its box.
    """

    box_side_at_224: ClassVar[int] = QUERY_BOX_SIDE_AT_224

    @property
    def masks(self) -> bool:  # type: ignore[override]
        """Whether the strategy masks anything."""
        return self.config.strategy != "none"

    @property
    def ratio(self) -> tuple[float, float]:
        """Of a masked query or key."""
        by_saliency = self.config.strategy.startswith("attmask")
        return self.config.attmask.ratio if by_saliency else self.config.query_ratio

    @property
    def share(self) -> float:
        """Share of the views that are masked, in [0, 1]."""
        if self.config.probability is not None:
            return self.config.probability
        if self.config.strategy == "exchange":
            return EXCHANGE_PROBABILITY
        return ATTMASK_PROBABILITY if self.config.strategy.startswith("attmask") else 1.0

    def mask(self, draws: Any, inputs: MaskerInputs) -> Tensor:  # noqa: ANN401
        """The masked pixels: bool, `[B, 3 with the high-pass fill, else 1, H, W]`."""
        config = self.config
        mask_BCHW = self._patch_mask(MASK_STRATEGIES[config.strategy], draws, inputs)
        if self.high_pass and self.masks:
            focal = draws.focal_B[:, None, None, None]
            rows, columns = _box(draws, inputs.view_size)
            _bytes(mask_BCHW).bitwise_or_(_bytes(focal & ~rows) | _bytes(focal & ~columns))
        if self.share < 1.0:
            mask_BCHW &= (draws.apply_B < self.share)[:, None, None, None]
        swaps = config.strategy == "exchange" and config.exchange == "swap"
        if inputs.next_foreground_BGG is not None and swaps:
            mask_BCHW &= has_background(inputs.next_foreground_BGG)[:, None, None, None]
        return mask_BCHW


@dataclass(frozen=True)
class HideObject(PatchMasker):
    """The masks of hard negatives: patches of the object. The focal shape masks its box."""

    noise_std: ClassVar[float] = NEGATIVE_NOISE_STD
    box_side_at_224: ClassVar[int] = NEGATIVE_BOX_SIDE_AT_224

    @property
    def ratio(self) -> tuple[float, float]:
        """Of the foreground."""
        return self.config.negative_ratio

    def mask(self, draws: Any, inputs: MaskerInputs) -> Tensor:  # noqa: ANN401
        """The masked pixels: bool, `[B, 3 with the high-pass fill, else 1, H, W]`."""
        strategy = NEGATIVE_PATCHES[self.config.negative_patches]
        mask_BCHW = self._patch_mask(strategy, draws, inputs)
        if self.high_pass:
            rows, columns = _box(draws, inputs.view_size)
            focal_rows = draws.focal_B[:, None, None, None] & rows
            _bytes(mask_BCHW).bitwise_or_(_bytes(focal_rows) & _bytes(columns))
        return mask_BCHW


def has_background(foreground_BGG: Tensor) -> Tensor:
    """Which views have background patches: bool, `[B]`."""
    return ~foreground_BGG.flatten(1).all(dim=1)


MASKERS: dict[str, Callable[[MaskConfig, bool], Masker]] = {}
"""Maskers of strategies that choose pixels in a way of their own, by name."""


def masker_named(config: MaskConfig, *, high_pass: bool) -> Masker:
    """The masker of a strategy, with the shapes of the high-pass fill if that is used."""
    return MASKERS.get(config.strategy, StrategyMasker)(config, high_pass)


def check_strategy(name: str) -> None:
    """Raise ``InputError`` for an unknown strategy; the message lists the known ones."""
    known = {**MASK_STRATEGIES, **MASKERS}
    if name not in known:
        raise InputError(f"unknown mask strategy {name!r}: choose from {', '.join(known)}")
