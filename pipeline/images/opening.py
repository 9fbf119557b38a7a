"""Open the bytes of an image with Pillow, strictly and within limits, with its plugins."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from io import BytesIO

from PIL import Image, ImageFile, UnidentifiedImageError

from pipeline.core.errors import ImageError
from pipeline.core.image_names import HEIF_BRANDS, JXL_SIGNATURES
from pipeline.images.codecs import one_line

MAX_PIXELS = 178_000_000
"""Default pixel limit, that of Pillow's decompression-bomb error."""
MAX_SIDE = 1 << 20
"""OpenCV decodes no wider or higher image."""
PROGRAMS = frozenset(("EPS",))
"""Formats for which Pillow starts a program (Ghostscript)."""


class DamageError(ImageError):
    """The bytes are not as they should be, but some of the picture may be there."""


@contextmanager
def opened(data: bytes, max_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Open an image whose size is within the limits; what goes wrong becomes an ImageError."""
    before = Image.MAX_IMAGE_PIXELS
    # Pillow's own check covers images inside of images: it warns above the limit, and raises above
    # twice the limit.
    Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        missing = _missing_plugin(data)
        silent = warnings.catch_warnings(action="ignore")
        with silent, Image.open(BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"{width} x {height} is more than {max_pixels} pixels")
            if max(width, height) > MAX_SIDE:
                raise ImageError(f"{width} x {height}: a side is longer than {MAX_SIDE}")
            yield image
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamageError(missing or _in_words(data)) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"far more than {max_pixels} pixels") from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, KeyError...
        # The bytes are in memory, so they are the reason.
        raise DamageError(f"cannot be decoded: {one_line(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _in_words(data: bytes) -> str:
    """What bytes are that are no image."""
    known = ""
    if data.startswith(b"version https://git-lfs"):
        known = ", but a pointer of Git LFS: git lfs pull fetches it"
    elif data[:64].lstrip()[:5].lower() in (b"<html", b"<!doc"):
        known = ", but a web page"
    return f"not an image in a format that can be read{known}"


def _formats() -> tuple[str, ...]:
    """All that Pillow and its registered plugins know, but for what starts a program."""
    Image.init()
    return tuple(name for name in Image.ID if name not in PROGRAMS)


def _missing_plugin(data: bytes) -> str:
    """Register the plugin that an image wants; what is missing, in words, if it is not there."""
    is_avif = data[8:12] in (b"avif", b"avis")  # Pillow's own
    if data[4:12] in HEIF_BRANDS and not is_avif:
        return "" if _register("pillow_heif") else "HEIC: install the extra heif (pillow-heif)"
    if data.startswith(JXL_SIGNATURES):
        return "" if _register("pillow_jxl") else "JPEG XL: install pillow-jxl-plugin"
    return ""


@cache
def _register(module: str) -> bool:
    """Register a plugin of Pillow; whether it is installed."""
    try:
        plugin = import_module(module)
    except ImportError:
        return False
    if module == "pillow_heif":  # the other one registers itself
        plugin.register_heif_opener()
    return True
