"""Bytes to pixels and back: what is stored of an image, and its saliency map.

Training decodes with OpenCV (`decode_stored`). Precompute reads with Pillow, which is strict and
knows more formats (`decode_source`), and stores the original bytes only where OpenCV makes the
same picture of them; everything else is stored as an 8-bit RGB PNG, by these rules:

- the first frame of an animation, the first page of a document;
- EXIF orientation applied; colour profiles ignored;
- transparency laid over white;
- 16 bit (0 to 65535): the high byte. 32-bit integers and floats have no range of their own: what
  lies in 0..255 (integers) or 0..1 (floats) is taken as such, integers up to 65535 as 16 bit, and
  the rest is scaled from the image's least to its greatest value;
- CMYK, palettes, Lab and the like: Pillow's conversion to RGB;
- a PNG of which nine tenths are whole: what is there (`pipeline.images.damaged_png`).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import ImageError
from pipeline.images.damaged_png import mend_png

MAX_PIXELS = 178_000_000
"""Default pixel limit, that of Pillow's decompression-bomb error."""
MAX_SIDE = 1 << 20
"""OpenCV decodes no wider or higher image."""
KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""MPO is what phones write: a JPEG with more pictures (depth, preview) behind the first."""
RESIZED_QUALITY = 92
"""JPEG quality of what is made smaller."""
AGREEMENT_LEVELS = 4.0
"""Mean difference, in levels of 255, up to which two decoders made the same picture."""

Image.init()
FORMATS = tuple(name for name in Image.ID if name != "EPS")
"""All that Pillow knows, but the one for which it starts a program (Ghostscript)."""

# Many processes decode at once, so threads inside one would only get in each other's way; and
# what is wrong with an image belongs on the rejected list, not on the terminal.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class DecodedSource:
    """A source image as training will see it.

    Attributes:
        pixels: uint8 [H, W, 3], RGB, EXIF applied: `decode_stored(stored_bytes)`.
        stored_bytes: what goes into the shard.
        ext: suffix of the stored bytes: jpg, png or webp.
    """

    pixels: NDArray[np.uint8]
    stored_bytes: bytes
    ext: str


def decode_stored(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode JPEG, PNG or WebP bytes to uint8 [H, W, 3], RGB, EXIF orientation applied.

    Raises:
        ImageError: OpenCV cannot decode the bytes.
    """
    return np.asarray(_imdecode(data, cv2.IMREAD_COLOR_RGB), dtype=np.uint8)


def decode_source(data: bytes, max_pixels: int = MAX_PIXELS) -> DecodedSource:
    """Decode a source image strictly and decide what is stored of it.

    Args:
        data: the file's bytes, in any format that Pillow reads.
        max_pixels: limit of width x height, checked before a pixel is decoded.

    Raises:
        ImageError: not an image, truncated, damaged, or over the limit; says which.
    """
    if not data:
        raise ImageError("empty file")
    try:
        return _decode_with_pillow(data, max_pixels)
    except _DamageError as error:
        mended = mend_png(data)
        if mended is None:
            raise ImageError(str(error)) from error
    return _decode_with_pillow(mended, max_pixels)


class _DamageError(ImageError):
    """The bytes are not as they should be, but some of the picture may be there."""


def _decode_with_pillow(data: bytes, max_pixels: int) -> DecodedSource:
    with _pillow_limits(max_pixels):
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                return _decode_open(image, data, max_pixels)
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise _DamageError("not an image in a format that can be read") from error
        except Image.DecompressionBombError as error:
            raise ImageError(f"far more than {max_pixels} pixels") from error
        except MemoryError:
            raise
        except Exception as error:
            # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError...
            # The bytes are in memory, so they are the reason.
            raise _DamageError(f"cannot be decoded: {_one_line(error)}") from error


def shrink_source(decoded: DecodedSource, short_side: int) -> DecodedSource:
    """Average an image by area until its shorter side has `short_side` pixels, and encode it.

    The JPEG has quality 92, 4:2:0. A smaller image is returned as it is, with its bytes.
    """
    height, width = decoded.pixels.shape[:2]
    shorter = min(height, width)
    if shorter <= short_side:
        return decoded
    size = (round(width * short_side / shorter), round(height * short_side / shorter))
    small = cv2.resize(decoded.pixels, size, interpolation=cv2.INTER_AREA)
    quality = [cv2.IMWRITE_JPEG_QUALITY, RESIZED_QUALITY]
    written, encoded = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), quality)
    assert written
    data = encoded.tobytes()
    return DecodedSource(decode_stored(data), data, "jpg")


def saliency_levels(saliency: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Average a map, float32 [h, w] in [0, 1], by area to uint8 [size, size]; 255 is saliency 1.

    Raises:
        ValueError: not a map, or values that are not finite.
    """
    if saliency.ndim != 2 or saliency.size == 0 or not np.isfinite(saliency).all():
        raise ValueError(f"a saliency map is finite and [h, w], got shape {saliency.shape}")
    resized = cv2.resize(saliency, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(np.rint(np.clip(resized, 0.0, 1.0) * 255.0), dtype=np.uint8)


def encode_saliency(saliency: NDArray[np.float32], size: int) -> bytes:
    """Encode a saliency map of any size as it is stored; see `saliency_levels`."""
    return encode_png(saliency_levels(saliency, size))


def decode_saliency(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode a stored saliency map to uint8 [S, S]; 255 is saliency 1.

    Raises:
        ImageError: not a square grey PNG.
    """
    levels = np.asarray(_imdecode(data, cv2.IMREAD_UNCHANGED), dtype=np.uint8)
    if levels.ndim != 2 or levels.shape[0] != levels.shape[1]:
        raise ImageError(f"a stored saliency map is square and grey, got shape {levels.shape}")
    return levels


def _imdecode(data: bytes | memoryview, flags: int) -> NDArray[np.generic]:
    if not data:
        raise ImageError("empty file")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError(f"cannot be decoded: {_one_line(error)}") from error
    if pixels is None:  # the stubs do not say so
        raise ImageError("cannot be decoded")
    return pixels


def _decode_open(image: Image.Image, data: bytes, max_pixels: int) -> DecodedSource:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{width} x {height} is more than {max_pixels} pixels")
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{width} x {height}: a side is longer than {MAX_SIDE}")
    image.load()
    ext = KEPT_FORMATS.get(image.format or "")
    rgb = _to_rgb(ImageOps.exif_transpose(image))
    if ext is not None and _may_keep(image, data):
        try:
            pixels = decode_stored(data)
        except ImageError:
            pixels = None
        if pixels is not None and _agree(pixels, rgb):
            return DecodedSource(pixels, data, ext)
    return DecodedSource(rgb, encode_png(np.ascontiguousarray(rgb[..., ::-1])), "png")


def _may_keep(image: Image.Image, data: bytes) -> bool:
    """Whether the bytes are of a kind that training decodes: 8-bit colour or grey, one frame."""
    if image.mode not in ("RGB", "L") or "transparency" in image.info:
        return False
    if image.format != "MPO" and getattr(image, "n_frames", 1) != 1:
        return False
    # a 16-bit colour PNG has mode RGB too: byte 24 of a PNG is its bit depth
    return image.format != "PNG" or data[24] == 8


def _agree(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Whether two decoders made the same picture: size, orientation and colours.

    Both must read orientation from the same place (EXIF, XMP), and a decoder must not have
    filled in what is damaged; a sample of at most 64 x 64 pixels tells.
    """
    if first.shape != second.shape:
        return False
    rows, columns = (slice(None, None, -(-side // 64)) for side in first.shape[:2])
    difference = first[rows, columns].astype(np.int16) - second[rows, columns]
    return bool(np.abs(difference).mean() <= AGREEMENT_LEVELS)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16"):
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        return np.repeat(_scale_wide(np.asarray(image))[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # the premultiplied modes convert to RGBA only one step at a time
        if image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _scale_wide(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """32-bit grey values to 8 bit, by the rule at the head of this file."""
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise ImageError("holds values that are not finite")
    low, high = float(wide.min()), float(wide.max())
    is_integer = np.issubdtype(values.dtype, np.integer)
    if is_integer and low >= 0 and high <= 255:
        scaled = wide
    elif is_integer and low >= 0 and high <= 65535:
        scaled = np.floor(wide / 256)
    elif not is_integer and low >= 0 and high <= 1:
        scaled = wide * 255
    else:
        scaled = (wide - low) / (high - low) * 255 if high > low else np.zeros_like(wide)
    return np.rint(scaled).astype(np.uint8)


def encode_png(levels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 [H, W] (a stored map), or [H, W, 3] in the order BGR, as a PNG."""
    written, encoded = cv2.imencode(".png", levels)
    assert written
    return encoded.tobytes()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _pillow_limits(max_pixels: int) -> Iterator[None]:
    """Pillow's own bomb check, which covers images inside of images, at our limit, silently."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow warns above it and raises above twice it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
