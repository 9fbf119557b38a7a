"""The numbers that decide a view's mask: drawn in the loader, applied later, on any device.

Shapes: `B` batch, `C` channels, `G` grid side, `N` = G * G patches.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images.gaussian import REFERENCE_VIEW_SIZE
from training.randomness.draws import Stream, View, uniforms

NUM_CHANNELS = 3
QUERY_BOX_SIDE_AT_224 = 200
"""Side in pixels, at 224 px, of the box that the focal mask of a query or key leaves visible."""
NEGATIVE_BOX_SIDE_AT_224 = 130
"""Side in pixels, at 224 px, of the box that the focal mask of a hard negative hides."""
FOCAL_PROBABILITY = 0.20
SPATIAL_PROBABILITY = 0.24
"""Shapes of the high-pass fill's masks; the third, channel-wise, has the remaining 0.56."""


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
    apply_B: Tensor
    """Uniform in [0, 1), float32: whether a view is masked at all, where that is drawn."""
    count_B2: Tensor
    """Uniform in [0, 1), float64: how the expected number of masked patches of each stratum is
    rounded, where that is drawn (`patches.masked_counts`)."""


class ExchangeDraws(NamedTuple):
    """The numbers that decide how the background of a query is exchanged; drawn on the CPU."""

    apply_B: Tensor
    """Uniform in [0, 1), float32: whether a view's background is exchanged at all."""
    patch_BN: Tensor
    """Uniform in [0, 1), float32: which background patch of the other image stands in the place of
    an object patch of it."""


def scaled_side(side_at_224: int, view_size: int) -> int:
    """Scale a side stated for 224 px views: the nearest whole number of pixels, at least 1."""
    return max(1, round(side_at_224 * view_size / REFERENCE_VIEW_SIZE))


def box_side(view: int, view_size: int) -> int:
    """Side in pixels of the focal box of a view, by its number (`training.randomness.draws.View`)."""
    at_224 = NEGATIVE_BOX_SIDE_AT_224 if view >= View.NEGATIVE else QUERY_BOX_SIDE_AT_224
    return scaled_side(at_224, view_size)


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
        seeds_B: the samples' seeds (`training.randomness.draws.sample_seeds`).
        view: number of the view (`training.randomness.draws.View`).
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
        apply_B=_float32(uniforms(seeds_B, view, Stream.MASK_APPLY, 1)[:, 0]),
        count_B2=torch.from_numpy(uniforms(seeds_B, view, Stream.MASK_COUNT, 2)),
    )


def draw_exchange(seeds_B: NDArray[np.uint64], *, grid: int) -> ExchangeDraws:
    """Draws the numbers that decide the exchange of the queries' backgrounds.

    Args:
        seeds_B: the samples' seeds (`training.randomness.draws.sample_seeds`).
        grid: patches per side of a view.
    """
    return ExchangeDraws(
        apply_B=_float32(uniforms(seeds_B, View.QUERY, Stream.EXCHANGE_APPLY, 1)[:, 0]),
        patch_BN=_float32(uniforms(seeds_B, View.QUERY, Stream.EXCHANGE_PATCH, grid * grid)),
    )


def is_focal(draws: MaskDraws) -> Tensor:
    """Which images have a focal mask where shapes are drawn, bool `[B]`."""
    return draws.shape_B < FOCAL_PROBABILITY


def is_channel_wise(draws: MaskDraws) -> Tensor:
    """Which images have their channels masked apart where shapes are drawn, bool `[B]`."""
    return draws.shape_B >= FOCAL_PROBABILITY + SPATIAL_PROBABILITY
