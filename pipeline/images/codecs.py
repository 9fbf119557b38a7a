"""Stored bytes to pixels and back: images as training decodes them, and saliency maps."""

from io import BytesIO
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from pipeline.core.errors import ImageError
from pipeline.images.pixel_format import Levels

# Many processes decode at once, so threads inside one would only get in each other's way; and
# what is wrong with an image belongs on the rejected list, not on the terminal.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

REDUCED = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""What libjpeg decodes fast. Three quarters of a side take longer than the whole image: those
transforms are not vectorised (libjpeg-turbo, issue 297)."""


class Reduced(NamedTuple):
    """An image that was decoded at a half, a quarter or an eighth of its sides."""

    picture: Image.Image
    by: int
    """A pixel's side in pixels of the whole image; the last ones may reach beyond it."""
    shape: tuple[int, int, int]
    """Of the whole image."""


Picture = NDArray[np.uint8] | Reduced


def decode_stored(data: bytes | memoryview, channels: int = 3) -> NDArray[np.uint8]:
    """Decode JPEG, PNG or WebP bytes to uint8 [H, W, 3], RGB, EXIF orientation applied.

    Of other numbers of channels it is a grey PNG of the channels one below another. Of 16 bits the
    high byte counts. Raises ImageError for bytes that OpenCV cannot decode.
    """
    if channels == 3:
        return np.asarray(_imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)
    planes = decode_unchanged(data)
    if planes.ndim != 2 or planes.shape[0] % channels:
        raise ImageError(f"holds no {channels} channels below each other: {list(planes.shape)}")
    if planes.dtype == np.uint16:
        planes = planes >> 8
    image_CHW = planes.reshape(channels, -1, planes.shape[1])
    return np.ascontiguousarray(image_CHW.transpose(1, 2, 0), dtype=np.uint8)


def decode_reduced(data: bytes | memoryview, by: int, size: tuple[int, int]) -> Reduced | None:
    """Decode a JPEG of a height and a width at 1 / by of them (`REDUCED`).

    Returns None for an image of another size, and for one that EXIF turns, whose pixels would begin
    at another edge. Raises ImageError as `decode_stored` does.
    """
    height, width = size
    if not _is_upright(data):
        return None
    pixels = _imdecode(data, REDUCED[by])
    rows, columns = pixels.shape[:2]
    if (rows, columns) != (-(-height // by), -(-width // by)):
        return None
    picture = Image.frombuffer("RGB", (columns, rows), pixels, "raw", "BGR", 0, 1)
    return Reduced(picture, by, (height, width, 3))


def _is_upright(data: bytes | memoryview) -> bool:
    if b"Exif\0\0" not in bytes(data[:4096]):  # it comes first
        return True
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            return bool(image.getexif().get(ExifTags.Base.Orientation, 1) == 1)
    except Exception:  # Pillow's plugins raise many
        return False


def decode_unchanged(data: bytes | memoryview) -> NDArray[Any]:
    """Decode an image as it is stored, BGR, of 8 or 16 bits or floats; ImageError if it fails."""
    return _imdecode(data, cv2.IMREAD_UNCHANGED)


def saliency_levels(saliency: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Average a map, float32 [h, w] in [0, 1], by area to uint8 [size, size]; 255 is saliency 1.

    Raises ValueError for another shape, or values that are not finite.
    """
    if saliency.ndim != 2 or saliency.size == 0:
        raise ValueError(f"a saliency map is [h, w], got shape {saliency.shape}")
    if not np.isfinite(saliency).all():
        raise ValueError("a saliency map has values that are not finite")
    resized = cv2.resize(saliency, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(np.clip(resized, 0.0, 1.0) * 255.0), dtype=np.uint8)


def encode_saliency(saliency: NDArray[np.float32], size: int) -> bytes:
    """Encode a saliency map of any size as it is stored; see `saliency_levels`."""
    return encode_png(saliency_levels(saliency, size))


def decode_saliency(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode a stored saliency map to uint8 [S, S]; ImageError if it is no square grey PNG."""
    levels = np.asarray(decode_unchanged(data), dtype=np.uint8)
    if levels.ndim != 2 or levels.shape[0] != levels.shape[1]:
        raise ImageError(f"a stored saliency map is square and grey, got shape {levels.shape}")
    return levels


def _imdecode(data: bytes | memoryview, flags: int) -> NDArray[Any]:
    if not data:
        raise ImageError("empty file")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError(f"cannot be decoded: {one_line(error)}") from error
    if pixels is None:  # the stubs do not say so
        raise ImageError("cannot be decoded")
    return pixels


def encode_png(levels: Levels) -> bytes:
    """Encode levels [H, W] (a stored map), or [H, W, 3] in the order BGR, as a PNG.

    Raises ImageError if OpenCV cannot.
    """
    return encode(".png", levels)


def encode_channels(levels: Levels) -> bytes:
    """Encode an image [H, W, C] as a PNG, for `decode_stored`: RGB, or its channels in a column."""
    if levels.shape[2] == 3:
        return encode_png(levels[..., ::-1])
    return encode_png(levels.transpose(2, 0, 1).reshape(-1, levels.shape[1]))


def encode(suffix: str, pixels: Levels, parameters: tuple[int, ...] = ()) -> bytes:
    """Encode levels [H, W] or [H, W, 3], BGR, in the format of a suffix; ImageError if it fails."""
    try:
        is_done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), parameters)
    except cv2.error as error:
        is_done, why = False, one_line(error)
    else:
        why = f"OpenCV writes no {suffix} of {pixels.shape[1]} x {pixels.shape[0]} pixels"
    if not is_done:
        raise ImageError(f"cannot be encoded: {why}")
    return data.tobytes()


def one_line(error: Exception) -> str:
    """The message of an error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
