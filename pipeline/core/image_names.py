"""Which files of a folder are images: by their suffix; without one, by their first bytes."""

import os

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
    ]
)
"""Also of formats that only a plugin of Pillow reads (HEIC, JPEG XL): without it such a file is on
the rejected list, and not passed over in silence."""

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


def has_image_suffix(path: str) -> bool:
    """Whether a file is an image by its name."""
    # ._x.jpg is what macOS keeps beside x.jpg on foreign disks; it is no picture
    return _suffix(path) in IMAGE_SUFFIXES and not _name(path).startswith("._")


def may_be_image(path: str) -> bool:
    """Whether a file's first bytes have to tell: it has no suffix, and is not hidden."""
    return not _suffix(path) and not _name(path).startswith(".")


def has_image_signature(head: bytes) -> bool:
    """Whether a file begins as an image does; `head` is its first `HEAD_BYTES` bytes."""
    return any(head[at : at + len(magic)] == magic for at, magic in SIGNATURES)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()
