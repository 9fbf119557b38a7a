"""Which pixels of a query and of a hard negative are masked.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side,
`N` = G * G patches, `H W` pixels.

The numbers are drawn first (`draw_masks`, in the loader) and applied later (`query_mask`,
`hard_negative_mask`, on any device), so that a mask can be drawn again from its sample's seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InputError
from pipeline.preprocessing import REFERENCE_VIEW_SIZE
from training.draws import Stream, uniforms
from training.patches import Strata, choose_patches, patches_to_pixels

NUM_CHANNELS = 3
QUERY_BOX_SIDE_AT_224 = 200
"""Side in pixels, at 224 px, of the box that the focal mask of a query leaves visible."""
NEGATIVE_BOX_SIDE_AT_224 = 130
"""Side in pixels, at 224 px, of the box that the focal mask of a hard negative hides."""
FOCAL_PROBABILITY = 0.20
SPATIAL_PROBABILITY = 0.24
"""Shapes of the high-pass fill's masks; the third, channel-wise, has the remaining 0.56."""


def _balanced(foreground_BN: Tensor) -> Strata:
    return foreground_BN, ~foreground_BN


def _one_stratum(foreground_BN: Tensor) -> Strata:
    return torch.ones_like(foreground_BN), torch.zeros_like(foreground_BN)


def _nothing(foreground_BN: Tensor) -> Strata:
    return torch.zeros_like(foreground_BN), torch.zeros_like(foreground_BN)


MASK_STRATEGIES: dict[str, Callable[[Tensor], Strata]] = {
    "none": _nothing,
    # As in Masked Siamese ConvNets (arXiv 2206.07700).
    "random": _one_stratum,
    "balanced": _balanced,
    # A control: the caller hands over the foreground of another image.
    "shuffled": _balanced,
}
"""How each strategy splits a view's patches into the strata of its query mask."""


def mask_strategy(name: str) -> Callable[[Tensor], Strata]:
    """Look a mask strategy up by its name.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    if name not in MASK_STRATEGIES:
        raise InputError(
            f"unknown mask strategy {name!r}: choose from {', '.join(MASK_STRATEGIES)}"
        )
    return MASK_STRATEGIES[name]


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How views are masked; the defaults are the paper's (arXiv 2309.12757, section 3)."""

    strategy: Literal["none", "random", "balanced", "shuffled"] = "balanced"
    """Which patches of a query are masked."""
    query_ratio: tuple[float, float] = (0.05, 0.25)
    """Range of the masking ratio of a query, of all its patches."""
    negative_ratio: tuple[float, float] = (0.4, 0.7)
    """Range of the masking ratio of a hard negative, of its foreground patches."""
    foreground_threshold: float = -0.6
    """A patch is foreground from mean + this * std of its view's saliency on."""

    def __post_init__(self) -> None:
        mask_strategy(self.strategy)
        for name in ("query_ratio", "negative_ratio"):
            low, high = getattr(self, name)
            if not 0.0 <= low <= high <= 1.0:
                raise InputError(f"{name} is {low} to {high}: wanted 0 <= low <= high <= 1")
        if not math.isfinite(self.foreground_threshold):
            raise InputError(
                f"foreground_threshold is {self.foreground_threshold}: wanted a finite number"
            )


class MaskDraws(NamedTuple):
    """The numbers that decide the masks of one view of each sample; drawn on the CPU."""

    ratio_B: Tensor
    """Masking ratio, float64."""
    scores_BCN: Tensor
    """Uniform in [0, 1) per channel and patch, float32; a stratum's lowest are masked."""
    shape_B: Tensor
    """Uniform in [0, 1), float32: which of the high-pass fill's three shapes."""
    box_B4: Tensor
    """top, left, bottom, right of the focal box in pixels, int64; bottom and right exclusive."""


def scaled_side(side_at_224: int, view_size: int) -> int:
    """Scale a side stated for 224 px views: the nearest whole number of pixels, at least 1."""
    return max(1, round(side_at_224 * view_size / REFERENCE_VIEW_SIZE))


def _float32(values: NDArray[np.float64]) -> Tensor:
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
        seeds_B: the samples' seeds (`training.draws.sample_seeds`).
        view: number of the view (`training.draws.View`).
        ratio: range of the masking ratio; each sample's is uniform in it.
        grid: patches per side of a view.
        view_size: side of a view in pixels.
        box_side: side of the focal box in pixels; its place is uniform inside the view.

    Returns:
        The draws, as CPU tensors.
    """
    low, high = ratio
    ratio_B = low + (high - low) * uniforms(seeds_B, view, Stream.MASK_RATIO, 1)[:, 0]
    scores = uniforms(seeds_B, view, Stream.MASK_SCORES, NUM_CHANNELS * grid * grid)
    shape_B = uniforms(seeds_B, view, Stream.MASK_SHAPE, 1)[:, 0]
    places = view_size - box_side + 1
    corner_B2 = (uniforms(seeds_B, view, Stream.MASK_BOX, 2) * places).astype(np.int64)
    return MaskDraws(
        ratio_B=torch.from_numpy(ratio_B),
        scores_BCN=_float32(scores).reshape(-1, NUM_CHANNELS, grid * grid),
        shape_B=_float32(shape_B),
        box_B4=torch.from_numpy(np.concatenate((corner_B2, corner_B2 + box_side), axis=1)),
    )


def _focal(draws: MaskDraws) -> Tensor:
    """Which images have a focal mask where shapes are drawn, bool `[B, 1, 1, 1]`."""
    return draws.shape_B[:, None, None, None] < FOCAL_PROBABILITY


def _grid_mask(strata: Strata, draws: MaskDraws, *, view_size: int, high_pass: bool) -> Tensor:
    """Masks of whole patches, `[B, C, H, W]`; with `high_pass` for images without focal mask."""
    if not high_pass:
        scores_B1N = draws.scores_BCN[:, :1]
        return patches_to_pixels(
            choose_patches(scores_B1N, strata, draws.ratio_B, capped=False), view_size
        )
    channel_wise = draws.shape_B[:, None, None] >= FOCAL_PROBABILITY + SPATIAL_PROBABILITY
    scores_BCN = torch.where(channel_wise, draws.scores_BCN, draws.scores_BCN[:, :1])
    patches_BCN = choose_patches(scores_BCN, strata, draws.ratio_B, capped=True)
    return patches_to_pixels(patches_BCN & ~_focal(draws)[..., 0], view_size)


def _inside_box(box_B4: Tensor, view_size: int) -> tuple[Tensor, Tensor]:
    """The rows `[B, 1, H, 1]` and the columns `[B, 1, 1, W]` that each image's box crosses."""
    pixel = torch.arange(view_size, device=box_B4.device)
    inside_B2S = (pixel >= box_B4[:, :2, None]) & (pixel < box_B4[:, 2:, None])
    return inside_B2S[:, :1, :, None], inside_B2S[:, 1:, None, :]


def query_mask(
    foreground_BGG: Tensor, draws: MaskDraws, *, strategy: str, view_size: int, high_pass: bool
) -> Tensor:
    """The masks of queries.

    Patches are drawn uniformly without replacement within the strategy's strata, in the numbers of
    `training.patches.masked_counts`. With `high_pass` each image has one of three shapes: focal
    (everything outside the box is masked, whatever the saliency), spatial (the same patches in all
    channels) or channel-wise (patches drawn for each channel apart).

    Args:
        foreground_BGG: bool; for `shuffled`, that of another image.
        draws: what `draw_masks` drew, on the foreground's device.
        strategy: a key of `MASK_STRATEGIES`.
        view_size: side of the view in pixels, a multiple of G.
        high_pass: whether the masks are for the high-pass fill.

    Returns:
        True where masked, bool `[B, C, H, W]`; C is 3 with `high_pass`, else 1.

    Raises:
        InputError: an unknown strategy, or a view that the grid does not divide.
    """
    strata = mask_strategy(strategy)(foreground_BGG.flatten(1))
    mask_BCHW = _grid_mask(strata, draws, view_size=view_size, high_pass=high_pass)
    if not high_pass:
        return mask_BCHW
    # A strategy that masks nothing has nothing in its strata, and then no focal mask either.
    maskable_B = (strata[0] | strata[1]).any(dim=1)
    focal = _focal(draws) & maskable_B[:, None, None, None]
    rows, columns = _inside_box(draws.box_B4, view_size)
    return mask_BCHW.bitwise_or_((focal & ~rows) | (focal & ~columns))


def hard_negative_mask(
    foreground_BGG: Tensor, draws: MaskDraws, *, view_size: int, high_pass: bool
) -> Tensor:
    """The masks of hard negatives: foreground patches only, in the numbers of a query's.

    With `high_pass` each image has one of the three shapes of `query_mask`, but the focal one masks
    the inside of its box.

    Args:
        foreground_BGG: bool; the view's own, except in the `shuffled` control.
        draws: what `draw_masks` drew, on the foreground's device.
        view_size: side of the view in pixels, a multiple of G.
        high_pass: whether the masks are for the high-pass fill.

    Returns:
        True where masked, bool `[B, C, H, W]`; C is 3 with `high_pass`, else 1.

    Raises:
        InputError: a view that the grid does not divide.
    """
    foreground_BN = foreground_BGG.flatten(1)
    strata = (foreground_BN, torch.zeros_like(foreground_BN))
    mask_BCHW = _grid_mask(strata, draws, view_size=view_size, high_pass=high_pass)
    if not high_pass:
        return mask_BCHW
    rows, columns = _inside_box(draws.box_B4, view_size)
    return mask_BCHW.bitwise_or_((_focal(draws) & rows) & columns)


def masked_share(mask_BCHW: Tensor, foreground_BGG: Tensor) -> tuple[Tensor, Tensor]:
    """How much of each stratum is masked: a figure to log.

    Args:
        mask_BCHW: bool, True where masked.
        foreground_BGG: bool.

    Returns:
        The share of the foreground's and of the background's pixels that are masked, averaged over
        the channels, float32 in [0, 1], `[B]` each; 0 for a stratum without patches.
    """
    batch, channels, height, width = mask_BCHW.shape
    grid = foreground_BGG.shape[-1]
    cut = mask_BCHW.reshape(batch, channels, grid, height // grid, grid, width // grid)
    share_BN = cut.float().mean(dim=(1, 3, 5)).flatten(1)
    foreground_BN = foreground_BGG.flatten(1).float()
    background_BN = 1.0 - foreground_BN

    def within(stratum_BN: Tensor) -> Tensor:
        return (share_BN * stratum_BN).sum(dim=1) / stratum_BN.sum(dim=1).clamp(min=1.0)

    return within(foreground_BN), within(background_BN)
