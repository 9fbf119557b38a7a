"""Views of labelled images: the test-time view with its saliency, and augmented pairs.

Shapes: B batch, M images, S side of the view, G grid side, D features.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.progress import track
from pipeline.images.preprocessing import resize_and_crop
from training.evaluate.features import FeatureExtractor, to_unit_range
from training.evaluate.labelled import LabelledImages
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.views.colours import ColourDraws, augment_colours, draw_colours
from training.views.crops import Crops, cut_crops, pool_saliency
from training.views.settings import AugmentConfig, ViewConfig

CPU = torch.device("cpu")


def in_batches(numbers_M: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """The numbers, so many at once; reports progress."""
    batches = (numbers_M[first : first + size] for first in range(0, len(numbers_M), size))
    return track(batches, "diagnostics", len(numbers_M), "images", size=len)


def two_views(
    extractor: FeatureExtractor, images: LabelledImages, numbers_M: NDArray[np.int64], *, seed: int
) -> tuple[Tensor, Tensor]:
    """Features of two augmented views of each image (MoCo v2's crops and colours): [M, D] each."""
    config = ViewConfig(size=extractor.view_size, grid=1)
    parts: dict[str, list[Tensor]] = {QUERY: [], KEY: []}
    for batch in in_batches(numbers_M, extractor.batch_size):
        pictures = [images.image(int(number)) for number in batch]
        seeds_B = sample_seeds(seed, 0, batch)
        for name, features in parts.items():
            pixels_BSS3, _ = cut_crops(pictures, seeds_B, names=(name,), config=config)
            image01_BCSS = coloured(pixels_BSS3, seeds_B, name, extractor.device)
            features.append(extractor.forward(extractor.prepare(image01_BCSS)).float().cpu())
    return torch.cat(parts[QUERY]), torch.cat(parts[KEY])


def coloured(
    pixels_BSS3: NDArray[np.uint8],
    seeds_B: NDArray[np.uint64],
    name: str,
    device: torch.device = CPU,
) -> Tensor:
    """Crops with MoCo v2's colours as drawn for a view, float [B, 3, S, S] in [0, 1]."""
    draws = draw_colours(
        seeds_B,
        view=view_number(name),
        config=AugmentConfig(),
        view_size=pixels_BSS3.shape[1],
    )
    on_device = ColourDraws(*(part.to(device) for part in draws))
    return augment_colours(_unit(pixels_BSS3, device), on_device)


def centre_views(
    extractor: FeatureExtractor, images: LabelledImages, numbers_B: NDArray[np.int64], *, grid: int
) -> tuple[Tensor, Tensor | None]:
    """Test-time views, float [B, 3, S, S] in [0, 1], and their saliency [B, G, G], if any."""
    pictures = [images.image(int(number)) for number in numbers_B]
    image01_BCSS = _unit(np.stack([extractor.view(p) for p in pictures]), extractor.device)
    if images.saliency_source is None:
        return image01_BCSS, None
    maps_BPP = np.stack([images.saliency(int(number)) for number in numbers_B])
    heights, widths = (np.array([p.shape[side] for p in pictures]) for side in (0, 1))
    boxes = view_boxes(heights, widths, extractor.short_side, extractor.view_size)
    pooled_BGG = pool_saliency(maps_BPP, boxes, grid)
    return image01_BCSS, torch.from_numpy(pooled_BGG)


def view_boxes(
    heights_B: NDArray[np.int64], widths_B: NDArray[np.int64], resize: int, size: int
) -> Crops:
    """The test-time view's box in each image, to whole pixels."""
    boxes = []
    for height, width in zip(heights_B.tolist(), widths_B.tolist(), strict=True):
        resized, corner = resize_and_crop(height, width, resize, size)
        scale = (height / resized[0], width / resized[1])
        boxes.append([corner[0] * scale[0], corner[1] * scale[1], size * scale[0], size * scale[1]])
    top, left, tall, wide = np.rint(np.array(boxes)).astype(np.int64).T
    still = np.zeros(len(boxes), dtype=np.bool_)
    return Crops(top, left, tall, wide, still, heights_B, widths_B)


def _unit(views_BSS3: NDArray[np.uint8], device: torch.device) -> Tensor:
    return to_unit_range(torch.from_numpy(views_BSS3).permute(0, 3, 1, 2), device)
