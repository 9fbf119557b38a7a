"""How well a stored map, warped with a view, agrees with the map computed on the view itself.

Shapes: B views, S side of a view, G grid side, P side of a stored map, H W pixels of an image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images.codecs import decode_saliency, encode_saliency
from pipeline.saliency.foreground import foreground
from pipeline.saliency.interface import Image, Map
from pipeline.saliency.on_view import to_grid
from training.evaluate.image_views import coloured
from training.randomness.draws import KEY, QUERY, sample_seeds
from training.views.crops import Crops, cut_crops, pool_saliency
from training.views.settings import ViewConfig


@dataclass(frozen=True)
class Agreement:
    """Of the foregrounds of many views.

    Attributes:
        iou: mean over views of the intersection over the union of the two foregrounds.
        auc: mean over views of the ranking of the view's own foreground by the stored values.
        objects: the same of the patches that lie in an object.
    """

    iou: float
    auc: float
    objects: float


class CutViews(NamedTuple):
    """One random crop of every image: its geometry, and how two draws of colours look."""

    crops: Crops
    images01_B3SS: Tensor
    recoloured01_B3SS: Tensor


def cut(images: Sequence[Image], config: ViewConfig, epoch: int) -> CutViews:
    """Draw, cut and colour a view of every image, as training does for its query view."""
    seeds_B = sample_seeds(0, epoch, np.arange(len(images)))
    crop = cut_crops(images, seeds_B, names=(QUERY,), config=config)
    looks = (coloured(crop.pixels_RSS3, seeds_B, name) for name in (QUERY, KEY))
    return CutViews(crop.boxes, *looks)


def pool_stored(
    maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int, size: int
) -> tuple[NDArray[np.float32], float]:
    """What training sees of maps stored at a size, and their mean number of bytes."""
    stored = [encode_saliency(saliency, size) for saliency in maps]
    levels_BPP = np.stack([decode_saliency(png) for png in stored])
    num_bytes = float(np.mean([len(png) for png in stored]))
    heights_B, widths_B = np.array([image.shape[:2] for image in images]).T
    return pool_saliency(levels_BPP, heights_B, widths_B, crops, grid), num_bytes


def pool_exactly(
    maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int
) -> NDArray[np.float32]:
    """The same without storing: float maps at the images' own resolution, not 8 bit at a size."""
    return np.stack(list(_pooled(maps, images, crops, grid)))


def _pooled(
    maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int
) -> Iterator[NDArray[np.float32]]:
    for number, (saliency, image) in enumerate(zip(maps, images, strict=True)):
        top, left, height, width = (int(part[number]) for part in crops[:4])
        full = cv2.resize(saliency, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        patches = to_grid(np.asarray(full[top : top + height, left : left + width]), grid)
        yield patches[:, ::-1] if crops.flip_B[number] else patches


def agreement(
    stored_BGG: NDArray[np.float32], own_BGG: NDArray[np.float32], object_BGG: NDArray[np.bool_]
) -> Agreement:
    """Compare what was stored with what is computed on the views, and with where objects are."""
    ours, theirs = (
        foreground(torch.from_numpy(saliency)).flatten(1).numpy()
        for saliency in (stored_BGG, own_BGG)
    )
    iou = (ours & theirs).sum(1) / (ours | theirs).sum(1)
    values = stored_BGG.reshape(len(ours), -1)
    objects = object_BGG.reshape(len(ours), -1)
    return Agreement(float(iou.mean()), mean_auc(values, theirs), mean_auc(values, objects))


def mean_auc(values_BN: NDArray[np.float32], wanted_BN: NDArray[np.bool_]) -> float:
    """Mean over views of the share of (wanted, unwanted) pairs that the values put in order.

    Views where everything or nothing is wanted have no pairs and are left out.
    """
    rounded = np.round(values_BN, 6)  # far below a level of 8 bits: equal values stay equal
    higher, lower = rounded[:, :, None], rounded[:, None, :]
    pair = wanted_BN[:, :, None] & ~wanted_BN[:, None, :]
    won = ((higher > lower) + 0.5 * (higher == lower)) * pair
    pairs = pair.sum((1, 2))
    return float((won.sum((1, 2))[pairs > 0] / pairs[pairs > 0]).mean())
