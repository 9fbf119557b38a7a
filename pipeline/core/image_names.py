"""Whether a file is an image: by its suffix or, if it has none, by its first bytes."""

import os
from collections.abc import Callable

_SUFFIXES = (
    "jpg jpeg jpe jfif png apng webp gif bmp dib tif tiff avif avifs heic heif jxl jp2 j2k ppm pgm "
    "pbm pnm tga"
)
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Includes formats that need a plugin of Pillow (HEIC, JPEG XL). Without the plugin such a file is
on the rejected list, instead of being ignored."""

HEAD_BYTES = 16
SIGNATURES = (
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (8, b"WEBP"),
    (0, b"II*\0"),  # TIFF
    (0, b"MM\0*"),
    (4, b"ftypavif"),
    (4, b"ftypavis"),
    (4, b"ftypheic"),
    (4, b"ftypmif1"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"),  # JPEG 2000
    (0, b"\xff\x4f\xff\x51"),
)
"""Offset and bytes with which image files begin."""


def has_image_suffix(path: str) -> bool:
    """Whether a file is an image by its name."""
    name = os.path.basename(path)
    # ._x.jpg is a file of macOS beside x.jpg, not an image
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("._")


def is_image(path: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file is an image by its name or, if it has no suffix and is not hidden, its bytes.

    `read_head` returns the first `HEAD_BYTES` bytes of the file; it is called only if needed.
    """
    name = os.path.basename(path)
    if os.path.splitext(name)[1] or name.startswith("."):
        return has_image_suffix(path)
    head = read_head()
    return any(head.startswith(magic, at) for at, magic in SIGNATURES)
