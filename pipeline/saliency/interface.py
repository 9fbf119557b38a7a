"""What a saliency source is, and what all of them share."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

FLAT_VALUE = 0.5
FLAT_LEVELS = 2
"""An image whose channels spread over no more levels than this has nothing that stands out."""
MAX_ASPECT = 4
DEFAULT_BATCH_IMAGES = 16

Image = NDArray[np.uint8]
Map = NDArray[np.float32]


class SaliencySource(Protocol):
    """Says where an image's objects are.

    Sources are frozen dataclasses: their fields are their parameters, and go into the plan's
    digest and into dataset.json.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps.

        Args:
            images: uint8 [H, W, 3] RGB each, of any size.

        Returns:
            A float32 map in [0, 1] for each image, of any size with any aspect: it covers the
            whole image. A flat image has a flat map, 0.5 everywhere.
        """
        ...


@runtime_checkable
class WeightedSource(Protocol):
    """What a saliency source has besides, if it reads weights: a network.

    Attributes:
        wants_gpu: whether it is much faster on a GPU; it uses one that its process can see.
        batch_images: how many images it likes to be given at once.
    """

    wants_gpu: ClassVar[bool]
    batch_images: ClassVar[int]

    def pinned(self) -> SaliencySource:
        """The same source, bound to its weights by their digest: other ones are refused later."""
        ...

    def parameters(self) -> dict[str, object]:
        """What decides its maps, flat and in json types, with the digest of the weights."""
        ...


def pin(source: SaliencySource) -> SaliencySource:
    """The source as it is sent to other processes; reads weights, where it has any.

    Raises:
        InputError: weights that are not there or do not fit.
    """
    return source.pinned() if isinstance(source, WeightedSource) else source


def parameters_of(source: SaliencySource) -> dict[str, object]:
    """Everything that decides a source's maps, for the plan's digest and dataset.json.

    Raises:
        InputError: weights that are not there or do not fit.
    """
    if isinstance(source, WeightedSource):
        return source.parameters()
    return dataclasses.asdict(source)


def batch_images_of(source: SaliencySource) -> int:
    """How many images a source likes to be given at once."""
    return source.batch_images if isinstance(source, WeightedSource) else DEFAULT_BATCH_IMAGES


def wants_gpu(source: SaliencySource) -> bool:
    """Whether a source is much faster on a GPU."""
    return isinstance(source, WeightedSource) and source.wants_gpu


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


def centre_prior(height: int, width: int, sigma: float) -> Map:
    """A Gaussian at the image's centre; float32 [height, width], 1 in the middle.

    Args:
        height: rows.
        width: columns.
        sigma: in halves of a side: at 1 the value in the middle of an edge is exp(-1/2).
    """
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2)).astype(np.float32)
