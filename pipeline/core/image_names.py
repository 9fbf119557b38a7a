"""Whether a file is an image: by its suffix or, if that says nothing, by its first bytes."""

import os
from collections.abc import Callable

_SUFFIXES = (
    "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff avif avifs heic heif jxl jp2 j2k ppm "
    "pgm pbm pnm tga"
)
IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
"""Includes formats that need a plugin of Pillow (HEIC, JPEG XL). Without the plugin such a file is
on the rejected list, instead of being ignored."""
_OTHERS = (
    "arrow avi bak bin bz2 cfg crdownload css csv db doc docx download feather gz h5 hdf5 htm html "
    "ini ipynb js json jsonl part partial swp tmp "
    "lock log mat md mkv mov mp3 mp4 npy npz parquet pdf pickle pkl pt pth py rar rtf sh sqlite "
    "srt svg tar tgz toml tsv txt wav webm xls xlsx xml xz yaml yml zip 7z "
)
_NO_PICTURES = (
    "msk ovr "  # GDAL's, beside a TIFF: its mask, and smaller copies of it
    "3fr arw cr2 cr3 dcr dng erf fff iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 sr2 srf srw"
)
"""These begin like TIFFs; of a camera's raw file, readers of TIFF take the preview."""
OTHER_SUFFIXES = frozenset(f".{suffix}" for suffix in (_OTHERS + _NO_PICTURES).split())
"""Files that are not looked into: in a bucket each look is a request."""
TOOL_FOLDERS = frozenset(("@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found"))
"""Folders that systems make beside images, in lower case."""

HEAD_BYTES = 18
JXL_SIGNATURES = (b"\0\0\0\x0cJXL \r\n\x87\n", b"\xff\x0a")
"""JPEG XL, in a container and without."""
SIGNATURES = (
    (0, b"\xff\xd8\xff"),  # JPEG
    (0, b"\x89PNG\r\n\x1a\n"),
    (0, b"GIF87a"),
    (0, b"GIF89a"),
    (8, b"WEBP"),
    (0, b"II*\0"),  # TIFF
    (0, b"MM\0*"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n"),  # JPEG 2000
    (0, b"\xff\x4f\xff\x51"),
    *((0, signature) for signature in JXL_SIGNATURES),
)
"""Offset and bytes with which image files begin."""
HEIF_BRANDS = frozenset(
    b"ftyp" + brand
    for brand in (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
) | {b"ftypmif1", b"ftypmsf1"}
"""Bytes 4 to 12 of AVIF and HEIF."""
BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
"""Sizes, at byte 14, of the second header of a BMP."""


def has_image_suffix(path: str) -> bool:
    """Whether a file is an image by its name; a hidden one is none."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def is_image(path: str, read_head: Callable[[], bytes]) -> bool:
    """Whether a file is an image: by its suffix or, if that is unknown, its first bytes.

    Hidden files are none, nor what lies in a hidden folder or one of `TOOL_FOLDERS`. `read_head`
    returns the first `HEAD_BYTES` bytes of the file; it is called only if needed.
    """
    if is_hidden(path):
        return False
    suffix = os.path.splitext(path)[1].lower()
    return suffix in IMAGE_SUFFIXES or (suffix not in OTHER_SUFFIXES and begins_image(read_head()))


def begins_image(head: bytes) -> bool:
    """Whether these are the first `HEAD_BYTES` bytes of an image."""
    is_bmp = head.startswith(b"BM") and not any(head[6:10])
    if is_bmp and int.from_bytes(head[14:18], "little") in BMP_HEADERS:
        return True
    return head[4:12] in HEIF_BRANDS or any(head.startswith(magic, at) for at, magic in SIGNATURES)


def is_hidden(path: str) -> bool:
    """Whether a part of a relative path begins with a dot, or is one of `TOOL_FOLDERS`."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return any(part.startswith(".") for part in parts) or any(
        part.lower() in TOOL_FOLDERS for part in parts[:-1]
    )


def kind_of(path: str) -> str:
    """What a file that is no image is counted as: its suffix, hidden, or without a suffix."""
    if is_hidden(path):
        return "hidden"
    return os.path.splitext(path)[1].lower() or "without a suffix"
