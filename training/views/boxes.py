"""Where crops lie: random resized boxes of every image, and the saliency within a box.

Shapes: B images, R = B rows for each of some crops, X some of those rows, G grid side, P side of a
stored saliency map (it covers the whole image, whatever the aspect).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.randomness.draws import Stream, Views, uniforms
from training.views.settings import ViewConfig
from training.views.spec import ObjectAware

CROP_TRIES = 10
"""Boxes tried before falling back to a central one, as torchvision's RandomResizedCrop does."""

EXACT = 0.998
"""Factor of what a crop shows: where two figures are equal, rounding must not decide."""


class Crops(NamedTuple):
    """One crop per image: pixel boxes inside the image, flips, and the sides of the images."""

    top_B: NDArray[np.int64]
    left_B: NDArray[np.int64]
    height_B: NDArray[np.int64]
    width_B: NDArray[np.int64]
    flip_B: NDArray[np.bool_]
    image_height_B: NDArray[np.int64]
    image_width_B: NDArray[np.int64]


def draw_crops(
    seeds_B: NDArray[np.uint64],
    heights_B: NDArray[np.int64],
    widths_B: NDArray[np.int64],
    *,
    view: Views,
    config: ViewConfig,
    attempt: int = 0,
) -> Crops:
    """Draw a random resized crop and a flip for every image of a batch.

    The distribution is that of torchvision's ``RandomResizedCrop`` and ``RandomHorizontalFlip``:
    area and log-aspect uniform, the first of ten boxes that fits, else the largest central box
    of an allowed aspect.

    `view` is the number of the crop (`draws.view_number`), or of each image's. The flip is the same
    at each attempt.
    """
    rows, count = np.arange(len(seeds_B)), 2 * CROP_TRIES + 2
    stream = Stream.CROP_AGAIN if attempt else Stream.CROP
    u_BX = uniforms(seeds_B, view, stream, max(1, attempt) * count)[:, -count:]
    area_BT, aspect_BT = u_BX[:, :CROP_TRIES], u_BX[:, CROP_TRIES : 2 * CROP_TRIES]
    corner_B2, flip_B = u_BX[:, -2:], uniforms(seeds_B, view, Stream.FLIP, 1)[:, 0]

    image_area_B = (heights_B * widths_B).astype(np.float64)
    low, high = config.crop_scale
    target_BT = image_area_B[:, None] * (low + (high - low) * area_BT)
    log_low, log_high = np.log(config.crop_aspect)
    ratio_BT = np.exp(log_low + (log_high - log_low) * aspect_BT)
    width_BT = np.rint(np.sqrt(target_BT * ratio_BT)).astype(np.int64)
    height_BT = np.rint(np.sqrt(target_BT / ratio_BT)).astype(np.int64)
    fits_BT = (
        (width_BT > 0)
        & (width_BT <= widths_B[:, None])
        & (height_BT > 0)
        & (height_BT <= heights_B[:, None])
    )
    first_B, found_B = fits_BT.argmax(axis=1), fits_BT.any(axis=1)

    central_width_B = np.minimum(widths_B, np.rint(heights_B * config.crop_aspect[1]))
    central_height_B = np.minimum(heights_B, np.rint(widths_B / config.crop_aspect[0]))
    width_B = np.where(found_B, width_BT[rows, first_B], np.maximum(central_width_B, 1))
    height_B = np.where(found_B, height_BT[rows, first_B], np.maximum(central_height_B, 1))
    width_B, height_B = width_B.astype(np.int64), height_B.astype(np.int64)
    free_B2 = np.stack((heights_B - height_B, widths_B - width_B), axis=1)
    drawn_B2 = np.floor(corner_B2 * (free_B2 + 1)).astype(np.int64)
    top_left_B2 = np.where(found_B[:, None], drawn_B2, free_B2 // 2)
    flips_B = flip_B < config.flip_probability
    top_B, left_B = top_left_B2.T
    return Crops(top_B, left_B, height_B, width_B, flips_B, heights_B, widths_B)


def draw_aware_crops(
    first: Crops,
    maps_BPP: NDArray[np.uint8],
    draw: Callable[[NDArray[np.int64], int], Crops],
    *,
    grid: int,
    aware: ObjectAware,
) -> Crops:
    """Draw crops again that show too little foreground.

    The first draw that shows enough counts; if none does, the one that shows the most. Where the
    map tells no object from a background, every draw shows enough.

    Args:
        first: the first draw for every image, or for all images crop after crop.
        maps_BPP: the images' stored saliency.
        draw: draws the crops of some rows, at an attempt of number 1 or more.
        grid: patches along a side of a crop.
        aware: what is foreground, how much of it is enough, and how often crops are drawn.
    """
    marked_BPP = np.where(aware.mark(maps_BPP), np.uint8(255), np.uint8(0))
    of_patch, rows = aware.share is None, np.arange(len(first.top_B))

    def shown(crops: Crops) -> NDArray[np.float64]:
        """What each of the `rows` shows: a share of one of its patches, or of the whole image."""
        pooled_XGG = pool_saliency(marked_BPP[rows % len(maps_BPP)], crops, grid if of_patch else 1)
        area_X = crops.height_B * crops.width_B / (crops.image_height_B * crops.image_width_B)
        most_X: NDArray[np.float64] = pooled_XGG.max(axis=(1, 2)).astype(np.float64)
        return most_X if of_patch else most_X * area_X

    enough_B = np.full(len(maps_BPP), 0.5)
    if aware.share is not None:
        whole_B = marked_BPP.mean(axis=(1, 2)) / 255
        enough_B = np.where(whole_B < 1, aware.share * whole_B, 0)
    enough_R = EXACT * np.tile(enough_B, len(rows) // len(maps_BPP))
    parts, best_R = [part.copy() for part in first], shown(first)
    for attempt in range(1, aware.tries):
        rows = np.flatnonzero(best_R < enough_R)
        if not len(rows):
            break
        drawn = draw(rows, attempt)
        shown_X = shown(drawn)
        better_X = EXACT * shown_X > best_R[rows]
        best_R[rows[better_X]] = shown_X[better_X]
        for part, new in zip(parts, drawn, strict=True):
            part[rows[better_X]] = new[better_X]
    return Crops._make(parts)


def pool_saliency(maps_BPP: NDArray[np.uint8], crops: Crops, grid: int) -> NDArray[np.float32]:
    """Average stored saliency over the patches of a view: the exact area mean.

    A patch covers a box of the image, so a box with fractional borders of the stored map (8 bit,
    covering the whole image); its value is the mean of the map over that box. The view's flip is
    applied. Returns saliency in [0, 1], [B, G, G].
    """
    cells = maps_BPP.shape[1]
    rows_BGP = _overlaps(crops.top_B, crops.height_B, crops.image_height_B, cells, grid)
    columns_BGP = _overlaps(crops.left_B, crops.width_B, crops.image_width_B, cells, grid)
    columns_BGP = np.where(crops.flip_B[:, None, None], columns_BGP[:, ::-1], columns_BGP)
    maps = maps_BPP.astype(np.float32) / np.float32(255)
    pooled: NDArray[np.float32] = rows_BGP @ maps @ columns_BGP.transpose(0, 2, 1)
    return pooled


def _overlaps(
    start_B: NDArray[np.int64],
    length_B: NDArray[np.int64],
    side_B: NDArray[np.int64],
    cells: int,
    grid: int,
) -> NDArray[np.float32]:
    """Share of each patch that each map cell covers along one axis: [B, G, P], rows sum to 1."""
    start_B1, length_B1 = (start_B / side_B)[:, None], (length_B / side_B)[:, None]
    edges_BG = cells * (start_B1 + length_B1 * np.arange(grid + 1) / grid)
    low_BG1, high_BG1 = edges_BG[:, :-1, None], edges_BG[:, 1:, None]
    cell = np.arange(cells)
    overlap = np.minimum(high_BG1, cell + 1) - np.maximum(low_BG1, cell)
    shares: NDArray[np.float64] = np.clip(overlap, 0, None) / (high_BG1 - low_BG1)
    return shares.astype(np.float32)
