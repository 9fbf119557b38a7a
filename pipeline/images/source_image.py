"""Source images: decode them strictly, and decide what is stored of them.

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
- a damaged PNG of which nine tenths can be read, mended (`pipeline.images.damaged`). A JPEG without
  its end is stored with an end mark.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_stored, encode, encode_png
from pipeline.images.damaged import mended_png, with_end
from pipeline.images.opening import MAX_PIXELS, DamageError, opened

KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""MPO is what phones write: a JPEG with more pictures (depth, preview) behind the first."""
RESIZED_QUALITY = 92
"""JPEG quality of what is made smaller."""
MAX_JPEG_SIDE = 65_500
"""libjpeg writes no longer side."""
ORIENTATIONS = range(2, 9)
"""EXIF's numbers of pictures that are not upright."""
AGREEMENT_LEVELS = 4.0
"""Mean difference, in levels of 255, up to which two decoders made the same picture."""


@dataclass(frozen=True)
class DecodedSource:
    """A source image as training will see it: `pixels` is `decode_stored(stored_bytes)`.

    The suffix `ext` of the stored bytes is jpg, png or webp. Readers that ignore EXIF have to turn
    the stored picture by `orientation` (EXIF's number; 1: it is upright as it is stored).
    """

    pixels: NDArray[np.uint8]
    stored_bytes: bytes
    ext: str
    orientation: int = 1


def decode_source(data: bytes, max_pixels: int = MAX_PIXELS) -> DecodedSource:
    """Decode a source image strictly and decide what is stored of it.

    Args:
        data: the file's bytes, in any format that Pillow and its installed plugins read.
        max_pixels: limit of width x height, checked before a pixel is decoded.

    Raises:
        ImageError: not an image, truncated, damaged, or over the limit; says which.
    """
    if not data:
        raise ImageError("empty file")
    try:
        return _decode(data, max_pixels)
    except DamageError:
        if (whole := with_end(data, max_pixels)) is not None:
            return _decode(whole, max_pixels)
        if (mended := mended_png(data, max_pixels)) is not None:
            return _as_png(_to_rgb(mended))
        raise


def _decode(data: bytes, max_pixels: int) -> DecodedSource:
    with opened(data, max_pixels) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        rgb = _to_rgb(upright)
        pixels = _decode_kept(image, data)
        if pixels is None or not _agree(pixels, rgb):
            return _as_png(rgb)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        is_turned = orientation in ORIENTATIONS
        if is_turned and not _is_upright(pixels, rgb, _to_rgb(image)):
            return _as_png(rgb)
        ext = KEPT_FORMATS[image.format or ""]
        return DecodedSource(pixels, data, ext, orientation if is_turned else 1)


def _as_png(rgb: NDArray[np.uint8]) -> DecodedSource:
    return DecodedSource(rgb, encode_png(rgb[..., ::-1]), "png")


def shrink_source(decoded: DecodedSource, short_side: int) -> DecodedSource:
    """Average an image by area until its shorter side has `short_side` pixels, and encode it.

    The JPEG has quality 92, 4:2:0; what is too long for a JPEG becomes a PNG. A smaller image is
    returned as it is, with its bytes.
    """
    height, width = decoded.pixels.shape[:2]
    shorter = min(height, width)
    if shorter <= short_side:
        return decoded
    size = (round(width * short_side / shorter), round(height * short_side / shorter))
    small = np.asarray(cv2.resize(decoded.pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    if max(size) > MAX_JPEG_SIDE:
        return _as_png(small)
    data = encode(".jpg", small[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, RESIZED_QUALITY))
    return DecodedSource(decode_stored(data), data, "jpg")


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


def _is_upright(
    pixels: NDArray[np.uint8], upright: NDArray[np.uint8], as_stored: NDArray[np.uint8]
) -> bool:
    """Whether a decoder has turned the picture.

    All pixels count: a page of text is mostly of one colour.
    """
    if upright.shape != as_stored.shape:
        return True  # another shape would not agree
    distances = [
        np.abs(pixels.astype(np.int16) - picture).mean() for picture in (upright, as_stored)
    ]
    return bool(distances[0] <= distances[1])


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
