"""How well a stored map, warped with a view, agrees with the map computed on the view itself.

Shapes: B views, S side of a view, G grid side, P side of a stored map, H W pixels of an image.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.codecs import decode_saliency, encode_saliency
from pipeline.saliency.foreground import foreground
from pipeline.saliency.interface import Image, Map, SaliencySource
from pipeline.saliency.scda import Scda
from pipeline.saliency.scda_input import STRIDE
from pipeline.saliency.scda_network import localiser_of
from training.augment import AugmentConfig, augment_colours, draw_colours
from training.data.draws import View, sample_seeds
from training.data.views import Crops, ViewConfig, cut_views, draw_crops, pool_saliency

OnView = Callable[[Tensor, int], NDArray[np.float32]]
"""Coloured views in [0, 1], [B, 3, S, S], and G -> saliency per patch, [B, G, G]."""
VIEWS_AT_ONCE = 16


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


@dataclass(frozen=True)
class CutViews:
    """One random crop of every image: its geometry, and how two draws of colours look."""

    crops: Crops
    images01_B3SS: Tensor
    recoloured01_B3SS: Tensor


def cut(images: Sequence[Image], config: ViewConfig, epoch: int) -> CutViews:
    """Draw, cut and colour a view of every image, as training does for its query view."""
    heights_B, widths_B = sides(images)
    seeds_B = sample_seeds(0, epoch, np.arange(len(images)))
    crops = draw_crops(seeds_B, heights_B, widths_B, view=View.QUERY, config=config)
    views_BSS3 = np.empty((len(images), config.size, config.size, 3), np.uint8)
    cut_views(images, crops, views_BSS3)
    views01_B3SS = torch.from_numpy(views_BSS3).permute(0, 3, 1, 2).float() / 255
    coloured = [
        augment_colours(
            views01_B3SS,
            draw_colours(seeds_B, view=view, config=AugmentConfig(), view_size=config.size),
        )
        for view in (View.QUERY, View.KEY)
    ]
    return CutViews(crops, *coloured)


def sides(images: Sequence[Image]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths."""
    shapes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    return shapes[:, 0], shapes[:, 1]


def on_view(source: SaliencySource) -> OnView:
    """How a source looks at a view."""
    return _activation_on_view(source) if isinstance(source, Scda) else _map_on_view(source)


def _activation_on_view(source: Scda) -> OnView:
    """The paper's way: a patch has the activation of its cell of the last block."""
    localiser = localiser_of(**asdict(source))

    @torch.inference_mode()
    def activation(images01_B3SS: Tensor, grid: int) -> NDArray[np.float32]:
        parts = []
        for part in images01_B3SS.split(VIEWS_AT_ONCE):
            # a small view is enlarged until each of its patches is a cell
            size = (grid * STRIDE, grid * STRIDE)
            enlarged = F.interpolate(part, size, mode="bilinear", align_corners=False)
            parts.append(localiser.activation(enlarged))
        return torch.cat(parts).numpy()

    return activation


def _map_on_view(source: SaliencySource) -> OnView:
    def saliency(images01_B3SS: Tensor, grid: int) -> NDArray[np.float32]:
        views = (images01_B3SS * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return np.stack([to_grid(one, grid) for one in source(list(views))])

    return saliency


def to_grid(saliency: Map, grid: int) -> Map:
    """A map averaged by area to patches."""
    return np.asarray(cv2.resize(saliency, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)


def pool_stored(
    maps: Sequence[Map], images: Sequence[Image], crops: Crops, grid: int, size: int
) -> tuple[NDArray[np.float32], float]:
    """What training sees of maps stored at a size, and their mean number of bytes."""
    stored = [encode_saliency(saliency, size) for saliency in maps]
    levels_BPP = np.stack([decode_saliency(png) for png in stored])
    num_bytes = float(np.mean([len(png) for png in stored]))
    return pool_saliency(levels_BPP, *sides(images), crops, grid), num_bytes


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
