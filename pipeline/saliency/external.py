"""`external`: masks that another model or a person made, from side files or a column.

A mask is in the orientation of the upright image, unless it carries EXIF orientation itself.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map, same_aspect

NPY_MAGIC = b"\x93NUMPY"
GREY_LEVELS = 8
"""How far the channels of a grey image may differ: a JPEG rounds them."""

MissingMasks = Literal["error", "uniform"]


@dataclass(frozen=True, kw_only=True)
class External(SaliencySource):
    """The mask that comes with an image; what an image without a mask gets is `missing`."""

    any_channels = True

    missing: MissingMasks = "error"

    def map_of(self, source: str, image: Image, mask: bytes | None) -> Map:
        """The map of an upright image, which messages call `source`, from the bytes of its mask.

        Raises:
            ImageError: the mask cannot be used.
            InputError: there is none, and `missing` is "error".
        """
        if mask is not None:
            return decode_mask(mask, width=image.shape[1], height=image.shape[0])
        if self.missing == "error":
            raise InputError(f"{source} has no mask (--missing-masks uniform gives it a flat map)")
        return flat_map()

    def map_image(self, image: Image) -> Map:
        """A flat map: nothing is known of an image without its mask."""
        return flat_map()


def decode_mask(data: bytes, width: int, height: int) -> Map:
    """Decode a mask: a grey image of 8 or 16 bits, or a `.npy` array of floats in [0, 1].

    Args:
        data: the file's bytes.
        width: of the upright image in pixels.
        height: of the upright image in pixels.

    Returns:
        float32 [h, w] in [0, 1], of the mask's own size.

    Raises:
        ImageError: it cannot be read, has other values, or another aspect than the image.
    """
    if not data:
        raise ImageError("its mask is an empty file")
    mask = _from_npy(data) if data.startswith(NPY_MAGIC) else _from_image(data)
    rows, columns = mask.shape
    if not same_aspect((rows, columns), (height, width)):
        raise ImageError(
            f"its mask is {columns} x {rows}, of another aspect than the image, {width} x {height}"
        )
    return mask


def _from_npy(data: bytes) -> Map:
    try:
        values = np.squeeze(np.load(BytesIO(data), allow_pickle=False))
    except (ValueError, OSError, EOFError, MemoryError) as error:  # its header says any size
        raise ImageError(f"its mask cannot be read: {error}") from error
    if values.ndim != 2 or values.size == 0:
        raise ImageError(f"its mask has shape {values.shape}, wanted is [height, width]")
    if values.dtype == np.uint8:
        return _from_levels(values)
    if not (np.issubdtype(values.dtype, np.floating) or values.dtype == np.bool_):
        raise ImageError(f"its mask holds {values.dtype}, wanted are floats in [0, 1]")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
        raise ImageError("its mask holds values outside of [0, 1]")
    return np.asarray(values, dtype=np.float32)


def _from_image(data: bytes) -> Map:
    try:
        with warnings.catch_warnings(action="ignore"), PIL.Image.open(BytesIO(data)) as image:
            upright = PIL.ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ImageError("its mask is in no format that can be read") from error
    except Exception as error:  # whatever Pillow's plugins raise: the bytes are at fault
        raise ImageError(f"its mask cannot be decoded: {' '.join(str(error).split())}") from error
    levels = np.asarray(upright)
    if upright.mode == "1":
        return np.asarray(levels, dtype=np.float32)
    if upright.mode.startswith("I;16"):
        return np.asarray(levels / 65535, dtype=np.float32)
    if upright.mode in ("RGB", "RGBA", "LA"):  # grey, saved as if it were not
        bands = levels[..., : 1 if upright.mode == "LA" else 3]
        if np.ptp(bands.astype(np.int16), axis=2).max(initial=0) > GREY_LEVELS:
            raise ImageError("its mask is coloured, wanted is a grey image")
        return _from_levels(bands[..., 0])
    if upright.mode != "L":
        raise ImageError(f"its mask is of mode {upright.mode}, wanted is a grey image")
    return _from_levels(levels)


def _from_levels(levels: NDArray[np.uint8]) -> Map:
    if levels.size and levels.max() == 1:
        raise ImageError("its 8-bit mask holds 0 and 1 only: 255 is foreground, multiply it")
    return np.asarray(levels / 255, dtype=np.float32)
