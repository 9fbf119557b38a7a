"""An encoder that looks at images: test-time views with their saliency, augmented pairs, features.

Shapes: B batch, S side of the view, G grid side, D features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.progress import track
from pipeline.images.preprocessing import resize_and_crop
from training.evaluate.features import evaluation_view
from training.evaluate.labelled import LabelledImages
from training.evaluate.subject import Subject
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.views.colours import augment_colours, draw_colours
from training.views.crops import Crops, cut_crops, pool_saliency
from training.views.settings import AugmentConfig, ViewConfig


class Views(NamedTuple):
    """Test-time views of a batch of images."""

    image01_BCSS: Tensor
    seeds_B: NDArray[np.uint64]
    saliency_BGG: Tensor | None
    """Over the patches of the view."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """An encoder and the images that it sees.

    Attributes:
        subject: the encoder.
        images: by number.
        grid: G, patches along a side of a view.
        device: that computes.
        seed: of crops and colours, and of what others draw by `seeds`.
        batch_size: images that go through the network at once.
    """

    subject: Subject
    images: LabelledImages
    grid: int
    device: torch.device
    seed: int
    batch_size: int

    @property
    def size(self) -> int:
        """S."""
        return self.subject.info.preprocessing.view_size

    @torch.no_grad()
    def encode(self, x_BCSS: Tensor) -> Tensor:
        """Features on the CPU."""
        features_BD: Tensor = self.subject.network(x_BCSS)
        return features_BD.float().cpu()

    def seeds(self, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The images' own seeds."""
        return sample_seeds(self.seed, 0, numbers)

    def batches(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """The numbers, so many at once; shows how far that is."""
        starts = range(0, len(numbers), self.batch_size)
        batches = (numbers[first : first + self.batch_size] for first in starts)
        return track(batches, "diagnostics", len(numbers), "images", size=len)

    def two_views(self, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features of two augmented views of each image (MoCo v2's crops and colours)."""
        parts: dict[str, list[Tensor]] = {QUERY: [], KEY: []}
        views, colours = ViewConfig(size=self.size, grid=1), AugmentConfig()
        for batch in self.batches(numbers):
            pictures = [self.images.image(int(number)) for number in batch]
            seeds_B = self.seeds(batch)
            for name, features in parts.items():
                cut = cut_crops(pictures, seeds_B, names=(name,), config=views)
                draws = draw_colours(
                    seeds_B, view=view_number(name), config=colours, view_size=self.size
                )
                on_device = type(draws)(*(part.to(self.device) for part in draws))
                image01 = augment_colours(_unit(cut.pixels_RSS3, self.device), on_device)
                features.append(self.encode(self.subject.prepare(image01)))
        return torch.cat(parts[QUERY]), torch.cat(parts[KEY])

    def views(self, numbers: NDArray[np.int64]) -> Views:
        """Test-time views with their saliency, where there is any."""
        pictures = [self.images.image(int(number)) for number in numbers]
        resize = self.subject.info.preprocessing.resize
        cut_BSS3 = np.stack([evaluation_view(p, self.size, resize) for p in pictures])
        saliency = None
        if self.images.saliency_source is not None:
            maps_BPP = np.stack([self.images.saliency(int(number)) for number in numbers])
            heights, widths = (np.array([p.shape[side] for p in pictures]) for side in (0, 1))
            boxes = view_boxes(heights, widths, resize, self.size)
            saliency = torch.from_numpy(pool_saliency(maps_BPP, heights, widths, boxes, self.grid))
        return Views(_unit(cut_BSS3, self.device), self.seeds(numbers), saliency)


def evenly_chosen(num_images: int, at_most: int) -> NDArray[np.int64]:
    """Numbers of images, evenly spread over a set, in order."""
    spread = np.linspace(0, num_images - 1, min(at_most, num_images))
    return np.unique(spread.round().astype(np.int64))


def _unit(views_BSS3: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Views uint8 [B, S, S, 3] as float [B, 3, S, S] in [0, 1]."""
    return torch.from_numpy(views_BSS3).permute(0, 3, 1, 2).to(device).float().div_(255)


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
    return Crops(top, left, tall, wide, np.zeros(len(boxes), dtype=np.bool_))
