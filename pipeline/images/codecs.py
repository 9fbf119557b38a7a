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
- a damaged PNG of which nine tenths can be read: missing rows repeat the row above.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from pipeline.core.errors import ImageError

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
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MIN_SHARE_OF_PNG = 0.9
"""Share of the pixels of a damaged PNG that must be readable."""

Image.init()
FORMATS = tuple(name for name in Image.ID if name != "EPS")
"""All that Pillow knows, but the one for which it starts a program (Ghostscript)."""

# Many processes decode at once, so threads inside one would only get in each other's way; and
# what is wrong with an image belongs on the rejected list, not on the terminal.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True)
class DecodedSource:
    """A source image as training will see it: `pixels` is `decode_stored(stored_bytes)`.

    The suffix `ext` of the stored bytes is jpg, png or webp.
    """

    pixels: NDArray[np.uint8]
    stored_bytes: bytes
    ext: str


def decode_stored(data: bytes | memoryview) -> NDArray[np.uint8]:
    """Decode JPEG, PNG or WebP bytes to uint8 [H, W, 3], RGB, EXIF orientation applied.

    Raises ImageError for bytes that OpenCV cannot decode.
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
        with _opened(data, max_pixels) as image:
            image.load()
            rgb = _to_rgb(ImageOps.exif_transpose(image))
            pixels = _decode_kept(image, data)
            if pixels is not None and _agree(pixels, rgb):
                return DecodedSource(pixels, data, KEPT_FORMATS[image.format or ""])
    except _DamageError:
        mended = _mended_png(data, max_pixels)
        if mended is None:
            raise
        rgb = mended
    return DecodedSource(rgb, encode_png(np.ascontiguousarray(rgb[..., ::-1])), "png")


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
    data = cv2.imencode(".jpg", np.ascontiguousarray(small[..., ::-1]), quality)[1].tobytes()
    return DecodedSource(decode_stored(data), data, "jpg")


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


class _DamageError(ImageError):
    """The bytes are not as they should be, but some of the picture may be there."""


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image whose size is within the limits; what goes wrong becomes an ImageError."""
    before = Image.MAX_IMAGE_PIXELS
    # Pillow's own check covers images inside of images: it warns above the limit, and raises above
    # twice the limit.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        silent = warnings.catch_warnings(action="ignore")
        with silent, Image.open(BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"{width} x {height} is more than {max_pixels} pixels")
            if max(width, height) > MAX_SIDE:
                raise ImageError(f"{width} x {height}: a side is longer than {MAX_SIDE}")
            yield image
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _DamageError("not an image in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"far more than {max_pixels} pixels") from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError...
        # The bytes are in memory, so they are the reason.
        raise _DamageError(f"cannot be decoded: {_one_line(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


class _Tolerance(threading.local):
    """Whether Pillow reads damaged files; a switch for each thread in place of one for all."""

    on = False

    def __bool__(self) -> bool:
        return self.on


_tolerance = _Tolerance()
ImageFile.LOAD_TRUNCATED_IMAGES = _tolerance  # type: ignore[assignment]


def _mended_png(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """What can be read of a damaged PNG, uint8 [H, W, 3]; None where that is too little."""
    if not data.startswith(PNG_SIGNATURE):
        return None
    _tolerance.on = True
    try:
        with _opened(data, max_pixels) as image, _opened(data, max_pixels) as second:
            # What is not read keeps the level that it had before, and so differs.
            pixels, others = _over(image, 0), _over(second, 255)
            is_missing = (pixels != others).any(axis=2)
            if is_missing.mean() > 1 - MIN_SHARE_OF_PNG:
                return None
            for row in np.flatnonzero(is_missing.any(axis=1)).tolist():
                image.paste(image.crop((0, row - 1, image.width, row)), (0, row))
            return _to_rgb(ImageOps.exif_transpose(image))
    finally:
        _tolerance.on = False


def _over(image: ImageFile.ImageFile, level: int) -> NDArray[np.generic]:
    """Load what can be read of an image over a uniform one, [H, W, bands]."""
    num_bands = len(image.getbands())
    uniform = Image.new(image.mode, image.size, level if num_bands == 1 else (level,) * num_bands)
    image.im = uniform.im
    with suppress(OSError, SyntaxError, ValueError):
        image.load()
    image.tile = []  # loaded
    return np.asarray(image).reshape(image.height, image.width, -1)


def _decode_kept(image: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """Decode as training does what it can: 8-bit colour or grey, one frame; None for the rest."""
    # A 16-bit colour PNG has mode RGB too: byte 24 of a PNG is its bit depth.
    is_wide = image.format == "PNG" and data[24] != 8
    is_moving = image.format != "MPO" and getattr(image, "n_frames", 1) != 1
    is_plain = image.mode in ("RGB", "L") and "transparency" not in image.info
    if image.format not in KEPT_FORMATS or is_wide or is_moving or not is_plain:
        return None
    try:
        return decode_stored(data)
    except ImageError:
        return None


def _agree(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Whether two decoders made the same picture, by at most 64 x 64 of its pixels.

    They may read orientation from different places (EXIF, XMP), or fill in what is damaged.
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
    return cv2.imencode(".png", levels)[1].tobytes()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
