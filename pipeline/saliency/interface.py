"""What a saliency source is, and what sources share.

Shapes: H W pixels of an image, h w cells of a map, B views, S side of a view, G grid side.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import InputError

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
Pixels = TypeVar("Pixels", Image, Map)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaliencySource:
    """Says where an image's objects are.

    A source implements `map_image`, or `__call__` where it works on batches. Its fields are its
    parameters: they go into the digest of the plan and into dataset.json.
    """

    wants_gpu = False
    """Whether the source is much faster on a GPU; it uses one that its process can see."""
    batch_images = 16
    """How many images the source is best given at once."""
    any_channels = False
    """Whether images of other than three channels will do, which are given as `three_channels`."""

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute the maps of RGB images, uint8 [H, W, 3] each, of any size.

        Returns:
            For each image float32 [h, w] in [0, 1], of any size: a map covers the whole image. A
            flat image has a flat map, 0.5 everywhere.
        """
        return [self.map_image(image) for image in images]

    def map_image(self, image: Image) -> Map:
        """Compute the map of one image."""
        raise NotImplementedError

    def on_view(self, views01_B3SS: "Tensor", grid: int) -> NDArray[np.float32]:
        """Saliency per patch, [B, G, G], of views in [0, 1] themselves, not of whole images."""
        views = (views01_B3SS * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return np.stack([to_grid(saliency, grid) for saliency in self(list(views))])

    def pinned(self) -> "SaliencySource":
        """The source for other processes: it refuses weights of another digest than now.

        Raises InputError for weights that are absent or do not fit.
        """
        return self

    def parameters(self) -> dict[str, object]:
        """Everything that decides the maps, in JSON types, with the digest of any weights.

        Raises InputError for weights that are absent or do not fit.
        """
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wrapper(SaliencySource):
    """Works on another source's maps. `OPTION=true` among that one's options switches it on."""

    option: ClassVar[str]
    base: SaliencySource

    @property
    def wants_gpu(self) -> bool:  # type: ignore[override]
        """As the base."""
        return self.base.wants_gpu

    @property
    def batch_images(self) -> int:  # type: ignore[override]
        """As the base."""
        return self.base.batch_images

    @property
    def any_channels(self) -> bool:  # type: ignore[override]
        """As the base."""
        return self.base.any_channels

    def pinned(self) -> Self:
        """With the base pinned."""
        return dataclasses.replace(self, base=self.base.pinned())

    def parameters(self) -> dict[str, object]:
        """The base's parameters, and its own ones under `option`."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del own["base"]
        return {**self.base.parameters(), self.option: own}


def three_channels(image: Image) -> Image:
    """An image [H, W, C] as uint8 [H, W, 3]: the means of its first, middle and last channels."""
    channels = image.shape[2]
    if channels <= 3:
        return image if channels == 3 else image[..., [0, channels - 1, channels - 1]]
    thirds = np.array_split(image, 3, axis=2)
    return np.stack([np.rint(third.mean(axis=2)) for third in thirds], axis=2).astype(np.uint8)


def flat_map() -> Map:
    """The map of an image in which nothing stands out."""
    return np.full((1, 1), FLAT_VALUE, dtype=np.float32)


def is_flat(image: Image) -> bool:
    """Whether all pixels have the same colour, up to rounding."""
    ranges = (cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image))
    return all(high - low <= FLAT_LEVELS for low, high in ranges)


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Image or map at another size [height, width]: areas averaged, or interpolated linearly."""
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), image.dtype)


def shrink(image: Image, short_side: int) -> Image:
    """Average an image by area until its shorter side is at most `short_side` pixels.

    Strips are squeezed to an aspect of at most 1:4, which bounds the cost of any source.
    """
    height, width = image.shape[:2]
    scale = min(1.0, short_side / min(height, width))
    longest = MAX_ASPECT * short_side
    wide, high = (min(longest, max(1, round(side * scale))) for side in (width, height))
    if (wide, high) == (width, height):
        return image
    return np.asarray(cv2.resize(image, (wide, high), interpolation=cv2.INTER_AREA), np.uint8)


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


def check_digest(what: str, found: str, planned: str) -> None:
    """Raise InputError where weights have another digest than was planned; "" is any."""
    if planned not in ("", found):
        raise InputError(
            f"{what} have digest {found[:12]}, this run was planned with {planned[:12]}: they have "
            "changed, or are others on this machine; give all machines the same ones and run this "
            "again"
        )
