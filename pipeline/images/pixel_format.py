"""What the stored pixels of a shard set are: channels, range of the source's values, statistics.

8-bit images are stored as they are. A value v of any other image becomes a level of 0..255,

    level = floor(256 (v - low) / (high - low)), clipped,

with the same `low` and `high` for every image of the set: those of its kind (integers or floats)
and channel. A first pass over the images finds them (`value_range`), and dataset.json states them.

Shapes: H W pixels, C channels.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, check

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RGB, MAX_CHANNELS = 3, 16
FEW_LEVELS = 16
"""An image with fewer different levels is counted: little is left of it."""
EIGHT_BIT, INTEGERS, FLOATS = "8 bit", "integers", "floats"
"""Kinds of images."""

Values = NDArray[np.generic]
"""An image as its file has it, [H, W, C], integers or floats."""
Levels = NDArray[np.uint8] | NDArray[np.uint16]
Range = tuple[float, float]


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


IMAGENET = Normalisation()


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """The pixels of a shard set.

    Attributes:
        channels: of every image; a grey image has three equal ones.
        bits: of a stored channel, 8 or 16; training reads the high byte.
        integers: low and high of each channel, where images have integers of more than 8 bits.
        floats: the same of images of floats.
        mean: of each channel in [0, 1]; ImageNet's where 8-bit images of three channels are there.
        std: likewise.
    """

    channels: int = RGB
    bits: int = 8
    integers: tuple[Range, ...] = ()
    floats: tuple[Range, ...] = ()
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    @property
    def normalisation(self) -> Normalisation:
        """Mean and standard deviation."""
        return Normalisation(self.mean, self.std)

    @property
    def words(self) -> str:
        """Channels and range, for people."""
        ranges = [
            f"{kind} {min(low for low, _ in found):.6g} to {max(high for _, high in found):.6g}"
            for kind, found in ((INTEGERS, self.integers), (FLOATS, self.floats))
            if found
        ]
        return ", ".join([f"{self.channels} channels", *ranges])

    def check_same(self, other: "PixelFormat", where: str) -> None:
        """Raise InputError if the images of another set would be other levels than this one's."""
        ranges = ((self.integers, other.integers), (self.floats, other.floats))
        check(
            self.channels == other.channels and all(a == b for a, b in ranges if a and b),
            f"{where} has {other.words}, where the training images have {self.words}: make it "
            "again, as another set, with --range like SHARDS, of the training images",
        )

    def check_rgb(self, what: str) -> None:
        """Raise InputError for what takes three channels only, unless these are three."""
        check(self.channels == RGB, f"{what} is for RGB, these images have {self.words}")

    def levels(self, values: Values) -> tuple[Levels, float]:
        """The levels of an image [H, W, C], and the share of its values outside of the range.

        Raises:
            ImageError: other channels than the set's, or a kind whose range the set does not have.
        """
        check_channels(values, self.channels)
        kind, steps, num_outside = kind_of(values), 1 << self.bits, 0
        levels: NDArray[Any] = np.empty(values.shape, np.uint8 if self.bits == 8 else np.uint16)
        if kind == EIGHT_BIT:
            levels[...] = values
            return levels * ((steps - 1) // 255), 0.0
        ranges = self.floats if kind == FLOATS else self.integers
        if not ranges:
            raise ImageError(f"holds {kind}, of which the set has no range: choose another --out")
        for channel, (low, high) in enumerate(ranges):  # one at a time: floats take much memory
            plane = values[..., channel].astype(np.float64)
            num_outside += int(np.count_nonzero((plane < low) | (plane > high)))
            scaled = np.floor((plane - low) * (steps / (high - low) if high > low else 0.0))
            levels[..., channel] = np.clip(scaled, 0, steps - 1)
        return levels, num_outside / values.size


PLAIN = PixelFormat()
"""Of a set of 8-bit images of three channels."""


def check_channels(image: Values, wanted: int) -> None:
    """Raise ImageError unless an image [H, W, C] has as many channels as the set."""
    if image.shape[2] != wanted:
        raise ImageError(f"has {image.shape[2]} channels, and the images of the set {wanted}")


def kind_of(values: Values) -> str:
    """Which kind of image [H, W, C] this is; ImageError for one that cannot be used."""
    if not 1 <= values.shape[2] <= MAX_CHANNELS or not values.size:
        raise ImageError(f"has shape {list(values.shape)}, wanted are 1 to {MAX_CHANNELS} channels")
    if values.dtype == np.uint8:
        return EIGHT_BIT
    if np.issubdtype(values.dtype, np.integer):
        return INTEGERS
    if not np.issubdtype(values.dtype, np.floating):
        raise ImageError(f"holds {values.dtype}, wanted are integers or floats")
    if not np.isfinite(values).all():
        raise ImageError("holds values that are not finite (NaN, infinite): replace them first")
    return FLOATS
