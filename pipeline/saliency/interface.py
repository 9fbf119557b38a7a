"""What a saliency source is, and what sources share.

Shapes: H W pixels of an image, h w cells of a map, B views, S side of a view, G grid side.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # most processes that compute maps do without torch
    from torch import Tensor

FLAT_VALUE = 0.5
FLAT_LEVELS = 2
"""Spread of each channel, in levels of 255, up to which an image counts as flat."""
MAX_ASPECT = 4
ASPECT_SLACK = 1.0
"""Pixels of a mask by which its sides may be off its image's aspect, through rounding."""

Image = NDArray[np.uint8]
Map = NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaliencySource:
    """Says where an image's objects are.

    A source implements `map_image`, or `__call__` where it works on batches. Its fields are its
    parameters: they go into the digest of the plan and into dataset.json.
    """

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps.

        Args:
            images: uint8 [H, W, 3] RGB each, of any size.

        Returns:
            For each image float32 [h, w] in [0, 1], of any size: a map covers the whole image. A
            flat image has a flat map, 0.5 everywhere.
        """
        return [self.map_image(image) for image in images]

    def map_image(self, image: Image) -> Map:
        """Compute the map of one image."""
        raise NotImplementedError

    def on_view(self, views01_B3SS: "Tensor", grid: int) -> NDArray[np.float32]:
        """Compute saliency per patch on views themselves, not on whole images.

        Args:
            views01_B3SS: coloured views in [0, 1], float.
            grid: patches along a side.

        Returns:
            [B, G, G].
        """
        views = (views01_B3SS * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return np.stack([to_grid(saliency, grid) for saliency in self(list(views))])

    @property
    def wants_gpu(self) -> bool:
        """Whether the source is much faster on a GPU; it uses one that its process can see."""
        return False

    @property
    def batch_images(self) -> int:
        """How many images the source is best given at once."""
        return 16

    def pinned(self) -> "SaliencySource":
        """The source for other processes: it refuses weights of another digest than now.

        Raises:
            InputError: weights that are absent or do not fit.
        """
        return self

    def parameters(self) -> dict[str, object]:
        """Everything that decides the maps, in JSON types, with the digest of any weights.

        Raises:
            InputError: weights that are absent or do not fit.
        """
        return dataclasses.asdict(self)


def flat_map() -> Map:
    """The map of an image in which nothing stands out."""
    return np.full((1, 1), FLAT_VALUE, dtype=np.float32)


def is_flat(image: Image) -> bool:
    """Whether all pixels have the same colour, up to rounding."""
    ranges = (cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image))
    return all(high - low <= FLAT_LEVELS for low, high in ranges)


def shrink(image: Image, short_side: int) -> Image:
    """Average an image by area until its shorter side is at most `short_side` pixels.

    Strips are squeezed to an aspect of at most 1:4, which bounds the cost of any source.
    """
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    longest = MAX_ASPECT * short_side
    size = (
        min(longest, max(1, round(width * scale))),
        min(longest, max(1, round(height * scale))),
    )
    if size == (width, height):
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def spread_out(saliency: Map) -> Map:
    """Shift and scale a map so that it runs from 0 to 1; a map without spread becomes flat."""
    low, high = float(saliency.min()), float(saliency.max())
    if not np.isfinite(low + high) or high - low < 1e-6:
        return flat_map()
    return ((saliency - low) / (high - low)).astype(np.float32)


def to_grid(saliency: Map, grid: int) -> Map:
    """Average a map by area to float32 [G, G]."""
    return np.asarray(cv2.resize(saliency, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)


def same_aspect(mask: tuple[int, int], image: tuple[int, int]) -> bool:
    """Whether a mask [rows, columns] has the aspect of an image [height, width]."""
    (rows, columns), (height, width) = mask, image
    return (
        abs(columns - rows * width / height) <= ASPECT_SLACK
        or abs(rows - columns * height / width) <= ASPECT_SLACK
    )
