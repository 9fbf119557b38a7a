"""Read the values of images that Pillow does not read whole: many bands, 16-bit colour, `.npy`.

Bands are the samples of a pixel, or the pages of a TIFF that declares them as channels; of other
pages the first one counts. A band that a file calls transparency is left out.
"""

import importlib
import logging
import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_unchanged, one_line
from pipeline.images.damaged import PNG_SIGNATURE
from pipeline.images.opening import DamageError, opened
from pipeline.images.pixel_format import MAX_CHANNELS, RGB, Values, kind_of

NPY_SIGNATURE = b"\x93NUMPY"
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 274
"""EXIF's tag."""
ALPHA = (1, 2)
"""TIFF's kinds of further samples that are transparency."""
CMYK, MIN_IS_WHITE = 5, 0
"""TIFF's numbers of a picture of inks, and of one whose least value is white."""
CHANNELS = "CQ"
"""What tifffile calls an axis of pages that are channels (Q: of an array that it wrote itself)."""
BANDS = f"{CHANNELS}S"
COLOURS = (b"\x10\x02", b"\x10\x04", b"\x10\x06")
"""PNGs of 16 bits: colours, grey with transparency, and colours with it."""
ANIMATED = b"acTL"
"""A part of a PNG with several pictures."""


def read_values(data: bytes, max_pixels: int) -> Values | None:
    """The values of an upright image, [H, W, C]; None where Pillow reads all of it.

    Raises:
        ImageError: damaged, over the limit of pixels, or of another shape.
    """
    values: NDArray[np.generic] | None = None
    if data.startswith(NPY_SIGNATURE):
        values = _of_npy(data)
    elif data.startswith(TIFF_SIGNATURES):
        values = _of_tiff(data, max_pixels)
    elif is_deep_colour(data):
        with opened(data, max_pixels) as image:  # which is strict
            image.load()
            values = upright(_colours(data), image.getexif().get(ORIENTATION, 1))
    if values is not None:
        kind_of(values)
        _check_size(values.shape[0], values.shape[1], max_pixels)
    return values


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise ImageError(f"{width} x {height} is more than {max_pixels} pixels")


def is_deep_colour(data: bytes) -> bool:
    """Whether this is a PNG of 16 bits of which Pillow reads the high byte only."""
    is_deep = data.startswith(PNG_SIGNATURE) and data[24:26] in COLOURS
    return is_deep and ANIMATED not in data[: data.find(b"IDAT")]  # OpenCV takes another picture


def as_colours(values: Values) -> Values:
    """Grey values, [H, W] or [H, W, 1], as three equal channels; other images as they are."""
    values = values[..., None] if values.ndim == 2 else values
    return np.repeat(values, RGB, axis=2) if values.shape[2] == 1 else values


def upright(values: Values, orientation: int) -> Values:
    """Turn an image [H, W, C] by EXIF's number."""
    if 5 <= orientation <= 8:
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def _colours(data: bytes) -> Values:
    """What OpenCV makes of three or four samples a pixel, in the order RGB."""
    pixels = decode_unchanged(data)
    if pixels.ndim != 3 or pixels.shape[2] < RGB:
        raise ImageError(f"cannot be decoded: its shape is {list(pixels.shape)}")
    return pixels[..., RGB - 1 :: -1]


def _of_npy(data: bytes) -> Values:
    try:
        values: NDArray[np.generic] = np.load(BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:  # its header says any size
        raise ImageError(f"cannot be read: {one_line(error)}") from error
    if values.ndim == 3 and values.shape[2] > MAX_CHANNELS >= values.shape[0]:
        values = values.transpose(1, 2, 0)
    if values.ndim not in (2, 3):
        raise ImageError(
            f"has shape {list(values.shape)}, wanted is [height, width], [height, width, channels] "
            "or [channels, height, width]"
        )
    return as_colours(values)


def _of_tiff(data: bytes, max_pixels: int) -> Values | None:
    tifffile = importlib.import_module("tifffile")  # here, since that takes a while
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    try:
        file = tifffile.TiffFile(BytesIO(data))
        page, series = file.pages[0], file.series[0]
        part, axes = _part(page, series)
    except Exception:  # whatever it raises, Pillow knows better what is wrong
        return None
    if page.is_reduced and page.subifds:
        raise ImageError("a camera's raw file, or another one that begins with a preview")
    base = page.samplesperpixel - len(page.extrasamples)
    is_band = [True] * base + [int(kind) not in ALPHA for kind in page.extrasamples]
    is_wide = sum(is_band) == 2 or sum(is_band) > RGB
    is_deep = page.dtype is not None and page.dtype.itemsize > 1
    if int(page.photometric) == CMYK or not (part is series or is_wide or is_deep):
        return None
    _check_size(page.imagelength, page.imagewidth, max_pixels)
    if axes == series.axes and (channels := _num_pages(series)) > MAX_CHANNELS:
        raise ImageError(f"has {channels} channels, wanted are 1 to {MAX_CHANNELS}")
    try:
        values: NDArray[Any] = part.asarray()
    except MemoryError:
        raise
    except Exception as error:
        is_read = int(page.photometric) != MIN_IS_WHITE and sum(is_band) in (1, RGB)  # elsewhere
        if "imagecodecs" in str(error) and part is page and is_read:
            return None if sum(is_band) == 1 else _colours(data)
        raise DamageError(f"cannot be decoded: {one_line(error)}") from error
    for place in reversed(range(values.ndim)):  # of times and depths the first one
        if axes[place] not in f"YX{BANDS}":
            values, axes = np.take(values, 0, axis=place), axes[:place] + axes[place + 1 :]
    values = np.moveaxis(values, (axes.index("Y"), axes.index("X")), (0, 1))
    values = values.reshape(*values.shape[:2], -1)
    if part is page:
        values = values[..., is_band]
    if int(page.photometric) == MIN_IS_WHITE:
        greatest = {"u": (1 << page.bitspersample) - 1, "i": -1}.get(values.dtype.kind, 0)
        values = values.dtype.type(greatest) - values
    tag = page.tags.get(ORIENTATION)
    return upright(as_colours(values), 1 if tag is None else int(tag.value))


def _part(page: Any, series: Any) -> tuple[Any, str]:  # noqa: ANN401
    """The first page of a TIFF, or all pages where they are channels, and its axes."""
    num_pages = _num_pages(series)
    if series.axes == "QYX" and num_pages > MAX_CHANNELS >= series.shape[2]:
        return series, "YXS"  # an array [H, W, C] that was written row by row
    if num_pages > 1 and ("C" in series.axes or num_pages <= MAX_CHANNELS):
        return series, str(series.axes)
    return page, str(page.axes)


def _num_pages(series: Any) -> int:  # noqa: ANN401
    """How many pages of a series are channels, or may be."""
    pairs = zip(series.axes, series.shape, strict=True)
    return math.prod(size for axis, size in pairs if axis in CHANNELS)
