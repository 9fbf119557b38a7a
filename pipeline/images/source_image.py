"""Source images: decode them strictly, and decide what is stored of them.

Training decodes with OpenCV (`decode_stored`). Precompute reads with Pillow, which is strict and
knows more formats (`decode_source`), and stores the original bytes only where OpenCV makes the
same picture of them; everything else is stored as an RGB PNG, by these rules:

- the first frame of an animation, the first page of a document;
- EXIF orientation applied; colour profiles ignored;
- transparency laid over white;
- more than 8 bits, and floats: levels of the set's range (`pipeline.images.pixel_format`); a grey
  image has three equal channels. Images of other numbers of channels are a grey PNG of them;
- CMYK, palettes, Lab and the like: Pillow's conversion to RGB;
- a damaged PNG of which nine tenths can be read, mended (`pipeline.images.damaged`). A JPEG without
  its end is stored with an end mark.
"""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_stored, encode, encode_channels
from pipeline.images.damaged import mended_png, with_end
from pipeline.images.deep_values import as_colours, is_deep_colour, read_values
from pipeline.images.opening import MAX_PIXELS, DamageError, opened
from pipeline.images.pixel_format import RGB, PixelFormat, Values
from pipeline.images.value_range import declared, look_at

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
    the stored picture by `orientation` (EXIF's number; 1: it is upright as it is stored). `outside`
    is the share of the values that were clipped, `num_levels` how many different ones a channel has
    at most; None: the values were stored as they were.
    """

    pixels: NDArray[np.uint8]
    stored_bytes: bytes
    ext: str
    orientation: int = 1
    outside: float = 0.0
    num_levels: int | None = None


def decode_source(data: bytes, max_pixels: int = MAX_PIXELS) -> DecodedSource:
    """Decode a source image by itself: one that is not 8-bit has the range of its own values.

    Arguments and errors are those of `read_source`.
    """
    found = read_source(data, max_pixels)
    if isinstance(found, DecodedSource):
        return found
    return store_values(found, declared([look_at(found)]))


def read_source(data: bytes, max_pixels: int = MAX_PIXELS) -> DecodedSource | Values:
    """Decode a source image strictly and decide what is stored of it.

    Args:
        data: the file's bytes, in any format that Pillow and its installed plugins read, a TIFF of
            any bands, or a `.npy` array.
        max_pixels: limit of width x height, checked before a pixel is decoded.

    Returns:
        The image; its values [H, W, C] where the format of the set decides (`store_values`).

    Raises:
        ImageError: not an image, truncated, damaged, or over the limit; says which.
    """
    if not data:
        raise ImageError("empty file")
    try:
        if (values := read_values(data, max_pixels)) is not None:
            is_plain = values.dtype == np.uint8 and values.shape[2] == RGB
            return as_png(values.astype(np.uint8)) if is_plain else values
        return _decode(data, max_pixels)
    except DamageError:
        if (whole := with_end(data, max_pixels)) is not None:
            return _decode(whole, max_pixels)
        mended = None if is_deep_colour(data) else mended_png(data, max_pixels)
        if mended is None:
            raise
        return as_colours(np.asarray(mended)) if _is_deep(mended) else as_png(_to_rgb(mended))


def store_values(values: Values, form: PixelFormat) -> DecodedSource:
    """What is stored of an image [H, W, C]; ImageError if it does not fit the set's format."""
    levels, outside = form.levels(values)
    pixels = np.asarray(levels >> (form.bits - 8), dtype=np.uint8)
    num_levels = max(len(np.unique(pixels[..., channel])) for channel in range(form.channels))
    data = encode_channels(levels)
    return DecodedSource(pixels, data, "png", outside=outside, num_levels=num_levels)


def _decode(data: bytes, max_pixels: int) -> DecodedSource | Values:
    with opened(data, max_pixels) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if _is_deep(upright):
            return as_colours(np.asarray(upright))
        rgb = _to_rgb(upright)
        pixels = _decode_kept(image, data)
        if pixels is None or not _agree(pixels, rgb):
            return as_png(rgb)
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        is_turned = orientation in ORIENTATIONS
        if is_turned and not _is_upright(pixels, rgb, _to_rgb(image)):
            return as_png(rgb)
        ext = KEPT_FORMATS[image.format or ""]
        return DecodedSource(pixels, data, ext, orientation if is_turned else 1)


def as_png(pixels: NDArray[np.uint8]) -> DecodedSource:
    """An image [H, W, C], stored as a PNG."""
    return DecodedSource(pixels, encode_channels(pixels), "png")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def shrink_source(decoded: DecodedSource, short_side: int) -> DecodedSource:
    """Average an image by area until its shorter side has `short_side` pixels, and encode it.

    The JPEG has quality 92, 4:2:0; what is too long for a JPEG, or has not three channels, becomes
    a PNG. A smaller image is returned as it is, with its bytes.
    """
    height, width = decoded.pixels.shape[:2]
    shorter = min(height, width)
    if shorter <= short_side:
        return decoded
    size = (round(width * short_side / shorter), round(height * short_side / shorter))
    parts = [  # OpenCV averages four channels at most
        cv2.resize(part, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
        for part in np.split(decoded.pixels, range(RGB, decoded.pixels.shape[2], RGB), axis=2)
    ]
    small = np.concatenate(parts, axis=2, dtype=np.uint8)
    about: dict[str, Any] = {"outside": decoded.outside, "num_levels": decoded.num_levels}
    if max(size) > MAX_JPEG_SIDE or small.shape[2] != RGB:
        return replace(as_png(small), **about)
    data = encode(".jpg", small[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, RESIZED_QUALITY))
    return DecodedSource(decode_stored(data), data, "jpg", **about)


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
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        # the premultiplied modes convert to RGBA only one step at a time
        if image.mode == "La":
            image = image.convert("LA")
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(image.convert("RGB"), dtype=np.uint8)
