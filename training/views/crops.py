"""Cut random resized crops, with the same geometry for image and saliency.

Shapes: B images, C channels, R = B rows for each of some crops, S side of a view, G grid side, P
side of a stored saliency map.
"""

from collections.abc import Sequence
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
from training.randomness.draws import view_number
from training.views.boxes import Crops, draw_aware_crops, draw_crops, pool_saliency
from training.views.colours import ColourDraws, draw_colours
from training.views.settings import AugmentConfig, ViewConfig
from training.views.spec import Crop, ObjectAware

_RESIZE = torch.ops.aten._upsample_bilinear2d_aa.out


class CropBatch(NamedTuple):
    """One crop of every image."""

    images_BCHW: Tensor
    """uint8 (channels last in memory)."""
    saliency_BGG: Tensor
    """float32 in [0, 1], pooled to the patches of the crop."""
    next_saliency_BGG: Tensor | None
    """That of the next image in the global batch, where a masker is steered by it."""
    colours: ColourDraws


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
