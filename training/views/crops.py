"""Random resized crops, with the same geometry for image and saliency.

Shapes: B images, C channels, R = B rows for each of some crops, S side of a view, G grid side, P
side of a stored saliency map (it covers the whole image, whatever the aspect).
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pipeline.images.codecs import Picture, Reduced
from training.randomness.draws import Stream, Views, uniforms, view_number
from training.views.colours import ColourDraws, draw_colours
from training.views.settings import AugmentConfig, ViewConfig
from training.views.spec import Crop, ObjectAware

CROP_TRIES = 10
"""Boxes tried before falling back to a central one, as torchvision's RandomResizedCrop does."""

EXACT = 0.998
"""Factor of what a crop shows: where two figures are equal, rounding must not decide."""

_RESIZE = torch.ops.aten._upsample_bilinear2d_aa.out


class Crops(NamedTuple):
    """One crop per image: pixel boxes inside the image, flips, and the sides of the images."""

    top_B: NDArray[np.int64]
    left_B: NDArray[np.int64]
    height_B: NDArray[np.int64]
    width_B: NDArray[np.int64]
    flip_B: NDArray[np.bool_]
    image_height_B: NDArray[np.int64]
    image_width_B: NDArray[np.int64]


class CropBatch(NamedTuple):
    """One crop of every image."""

    images_BCHW: Tensor
    """uint8 (channels last in memory)."""
    saliency_BGG: Tensor
    """float32 in [0, 1], pooled to the patches of the crop."""
    next_saliency_BGG: Tensor | None
    """That of the next image in the global batch, where a masker is steered by it."""
    colours: ColourDraws


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
    area_BT, aspect_BT, corner_B2 = np.split(u_BX, (CROP_TRIES, 2 * CROP_TRIES), axis=1)
    flip_B = uniforms(seeds_B, view, Stream.FLIP, 1)[:, 0] < config.flip_probability

    image_area_B = (heights_B * widths_B).astype(np.float64)
    low, high = config.crop_scale
    target_BT = image_area_B[:, None] * (low + (high - low) * area_BT)
    log_low, log_high = np.log(config.crop_aspect)
    ratio_BT = np.exp(log_low + (log_high - log_low) * aspect_BT)
    width_BT = np.rint(np.sqrt(target_BT * ratio_BT)).astype(np.int64)
    height_BT = np.rint(np.sqrt(target_BT / ratio_BT)).astype(np.int64)
    fits_BT = (width_BT <= widths_B[:, None]) & (height_BT <= heights_B[:, None])
    fits_BT &= np.minimum(width_BT, height_BT) > 0
    first_B, found_B = fits_BT.argmax(axis=1), fits_BT.any(axis=1)

    central_width_B = np.minimum(widths_B, np.rint(heights_B * config.crop_aspect[1]))
    central_height_B = np.minimum(heights_B, np.rint(widths_B / config.crop_aspect[0]))
    width_B = np.where(found_B, width_BT[rows, first_B], np.maximum(central_width_B, 1))
    height_B = np.where(found_B, height_BT[rows, first_B], np.maximum(central_height_B, 1))
    width_B, height_B = width_B.astype(np.int64), height_B.astype(np.int64)
    free_B2 = np.stack((heights_B - height_B, widths_B - width_B), axis=1)
    drawn_B2 = np.floor(corner_B2 * (free_B2 + 1)).astype(np.int64)
    top_left_B2 = np.where(found_B[:, None], drawn_B2, free_B2 // 2)
    top_B, left_B = top_left_B2.T
    return Crops(top_B, left_B, height_B, width_B, flip_B, heights_B, widths_B)


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
    marked_BPP = 255 * aware.mark(maps_BPP).astype(np.uint8)
    of_patch, rows = aware.share is None, np.arange(len(first.top_B))

    def shown(crops: Crops) -> NDArray[np.float64]:
        """What each of the `rows` shows: a share of one of its patches, or of the whole image."""
        pooled_XGG = pool_saliency(marked_BPP[rows % len(maps_BPP)], crops, grid if of_patch else 1)
        area_X = crops.height_B * crops.width_B / (crops.image_height_B * crops.image_width_B)
        most_X: NDArray[np.float64] = pooled_XGG.max(axis=(1, 2)).astype(np.float64)
        return most_X if of_patch else most_X * area_X

    enough_R = EXACT * np.tile(aware.enough(marked_BPP > 0), len(rows) // len(maps_BPP))
    parts, best_R = [part.copy() for part in first], shown(first)
    for attempt in range(1, aware.tries):
        rows = np.flatnonzero(best_R < enough_R)
        if not len(rows):
            break
        drawn = draw(rows, attempt)
        shown_X = shown(drawn)
        better_X = EXACT * shown_X > best_R[rows]
        for part, new in zip((*parts, best_R), (*drawn, shown_X), strict=True):
            part[rows[better_X]] = new[better_X]
    return Crops._make(parts)


def cut_views(images: Sequence[Picture], crops: Crops, out_RSSC: NDArray[np.uint8]) -> None:
    """Cut, resize and flip views of every image into ``out_RSSC``.

    Bilinear with a filter as wide as the shrinking asks for (no aliasing): what torchvision's
    ``RandomResizedCrop`` does to a Pillow image, to within one level.

    The images are uint8 [H, W, C] of any size, or reduced. There is one box of the whole image per
    image, or B for each of several crops, crop after crop; the output has the order of the boxes.
    """
    size = list(out_RSSC.shape[1:3])
    outs_1CSS = torch.from_numpy(out_RSSC).permute(0, 3, 1, 2).split(1)
    boxes_R4, flips_R = np.stack(crops[:4], axis=1).tolist(), crops.flip_B.tolist()
    for i, image in enumerate(images):
        for row in range(i, len(boxes_R4), len(images)):  # all of an image while it is cached
            top, left, height, width = boxes_R4[row]
            if isinstance(image, Reduced):  # Pillow's boxes may begin and end within a pixel
                by = image.by
                edges = (left / by, top / by, (left + width) / by, (top + height) / by)
                view = image.picture.resize(size, Image.Resampling.BILINEAR, edges)
                out_RSSC[row] = np.asarray(view)
            elif max(height, width) <= size[0]:  # nothing shrinks: the same, and OpenCV is faster
                box = image[top : top + height, left : left + width]
                cv2.resize(box, size, dst=out_RSSC[row], interpolation=cv2.INTER_LINEAR)
            else:  # functional.interpolate(antialias=True), but without its copy, half of its time
                box = image[top : top + height, left : left + width]
                batch_of_one = torch.from_numpy(box).permute(2, 0, 1).unsqueeze(0)
                _RESIZE(batch_of_one, size, False, None, None, out=outs_1CSS[row])
            if flips_R[row]:
                cv2.flip(out_RSSC[row], 1, dst=out_RSSC[row])


def cut_crops(
    images: Sequence[Picture],
    seeds_B: NDArray[np.uint64],
    *,
    names: Sequence[str],
    config: ViewConfig,
    maps_BPP: NDArray[np.uint8] | None = None,
    aware: ObjectAware | None = None,
) -> tuple[NDArray[np.uint8], Crops]:
    """Draw and cut crops of every image.

    Args:
        images: B decoded images, uint8 [H, W, C] of any size, or reduced ones.
        seeds_B: their seeds (`draws.sample_seeds`).
        names: of the crops, which decide the draws.
        config: size and ranges.
        maps_BPP: stored saliency of the images, where crops are `aware` of it.
        aware: how much of the foreground crops are to show (`draw_aware_crops`).

    Returns:
        Pixels, uint8 [R, S, S, C], and boxes: B rows for each name, name after name.
    """
    sides = [np.tile([image.shape[side] for image in images], len(names)) for side in (0, 1)]
    seeds_R, view_R = _rows(seeds_B, names)
    crops = draw_crops(seeds_R, *sides, view=view_R, config=config)

    def again(rows: NDArray[np.int64], attempt: int) -> Crops:
        own = (side_R[rows] for side_R in sides)
        return draw_crops(seeds_R[rows], *own, view=view_R[rows], config=config, attempt=attempt)

    if aware is not None:
        assert maps_BPP is not None
        crops = draw_aware_crops(crops, maps_BPP, again, grid=config.grid, aware=aware)
    shape = (len(seeds_R), config.size, config.size, images[0].shape[2])
    pixels_RSSC = np.empty(shape, dtype=np.uint8)
    cut_views(images, crops, pixels_RSSC)
    return pixels_RSSC, crops


def _rows(
    seeds_B: NDArray[np.uint64], names: Sequence[str]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Seeds and numbers of the view, [R], crop after crop."""
    numbers = [view_number(name) for name in names]
    return np.tile(seeds_B, len(names)), np.repeat(numbers, len(seeds_B))


def crop_batches(
    images: Sequence[Picture],
    maps: Sequence[NDArray[np.uint8]],
    seeds_B: NDArray[np.uint64],
    crops: Sequence[Crop],
    augment: AugmentConfig,
) -> dict[str, CropBatch]:
    """Cut all crops of some images, pool their saliency and draw their colours.

    `maps` are the images' stored saliency [B, P, P], then that of the next images where it steers
    masks. Returns the batches by the name of the crop.
    """
    batches: dict[str, CropBatch] = {}
    names_of: dict[tuple[ViewConfig, ObjectAware | None], list[str]] = {}
    for crop in crops:  # crops of one geometry are cut together: fewer calls
        names_of.setdefault((crop.cut, crop.aware), []).append(crop.name)
    for (cut, aware), names in names_of.items():
        pixels_RSSC, boxes = cut_crops(
            images, seeds_B, names=names, config=cut, maps_BPP=maps[0], aware=aware
        )
        pooled = [
            torch.from_numpy(pool_saliency(np.tile(maps_BPP, (len(names), 1, 1)), boxes, cut.grid))
            for maps_BPP in maps
        ]
        seeds_R, view_R = _rows(seeds_B, names)
        together = CropBatch(
            torch.from_numpy(pixels_RSSC).permute(0, 3, 1, 2),
            pooled[0],
            pooled[1] if len(pooled) > 1 else None,
            draw_colours(
                seeds_R,
                view=view_R,
                config=augment,
                view_size=cut.size,
                channels=images[0].shape[2],
            ),
        )
        for number, name in enumerate(names):
            rows = slice(number * len(images), (number + 1) * len(images))
            batches[name] = tree_map_only(Tensor, itemgetter(rows), together)
    return batches


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
