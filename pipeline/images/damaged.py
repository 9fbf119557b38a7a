"""What can be read of a damaged image.

One rule for all: an image is kept if nine tenths of it are there. Missing rows of a PNG repeat the
row above. A JPEG without its end gets an end mark; its decoder goes on with the last colour.
"""

import threading
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from pipeline.images.opening import opened

PNG_SIGNATURE, JPEG_SIGNATURE, JPEG_END = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\xff\xd9"
FRAMES, SCAN = (0xC0, 0xC1, 0xC2), 0xDA
IN_SCANS = (0x00, *range(0xD0, 0xD8), 0xFF)
"""What may follow a byte of 255 within a scan."""
FOLLOWING = bytes(range(7, 255, 11))
"""What could follow a JPEG that was cut off: bytes that are no markers."""
MIN_SHARE = 0.9
"""Share of a damaged image that must be readable."""


class _Tolerance(threading.local):
    """Whether Pillow reads damaged files; a switch for each thread in place of one for all."""

    on = False

    def __bool__(self) -> bool:
        return self.on


_tolerance = _Tolerance()
ImageFile.LOAD_TRUNCATED_IMAGES = _tolerance  # type: ignore[assignment]


def with_end(data: bytes, max_pixels: int) -> bytes | None:
    """A JPEG that was cut off, with an end mark; None where too little of it is there.

    Rows are missing from the first one on that depends on what follows the bytes that are there.
    """
    if not data.startswith(JPEG_SIGNATURE) or not _has_every_scan(data):
        return None
    data = data.rstrip(b"\xff")  # half of a marker
    other = FOLLOWING * (len(data) // (4 * len(FOLLOWING)) + 50)
    ends = JPEG_END, other + JPEG_END
    first, second = (_levels(data + end, max_pixels) for end in ends)
    differs = np.flatnonzero((first != second).any(axis=(1, 2)))
    missing = 1 - differs[0] / len(first) if len(differs) else 0.0
    return data + JPEG_END if missing <= 1 - MIN_SHARE else None


def _has_every_scan(data: bytes) -> bool:
    """Whether the last scan of a JPEG has begun: every coefficient is there to its last bit.

    A progressive JPEG has many scans. The others have one or, rarely, one for each component.
    """
    wanted: set[tuple[int, int]] = set()
    at = 2
    while at + 4 < len(data):
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if kind in FRAMES and len(body) > 5:
            wanted = {(part, k) for part in body[6 : 6 + 3 * body[5] : 3] for k in range(64)}
        if kind == SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, bits = body[1 + 2 * body[0] :][:3]
            if bits & 15 == 0:
                parts = body[1 : 1 + 2 * body[0] : 2]
                wanted -= {(part, k) for part in parts for k in range(first, last + 1)}
        at += 2 + length
        while at + 1 < len(data) and not (data[at] == 0xFF and data[at + 1] not in IN_SCANS):
            at = (data.find(b"\xff", at + 1) + 1 or len(data) + 1) - 1
    return not wanted


def _levels(data: bytes, max_pixels: int) -> NDArray[np.generic]:
    """The picture as it is stored, [H, W, bands]."""
    with opened(data, max_pixels) as image:
        image.load()
        return np.asarray(image).reshape(image.height, image.width, -1)


def mended_png(data: bytes, max_pixels: int) -> Image.Image | None:
    """A damaged PNG, mended and upright; None where too little of it can be read."""
    if not data.startswith(PNG_SIGNATURE):
        return None
    _tolerance.on = True
    try:
        with opened(data, max_pixels) as image, opened(data, max_pixels) as second:
            # What is not read keeps the level that it had before, and so differs.
            is_missing = (_over(image, 0) != _over(second, 255)).any(axis=2)
            if is_missing.mean() > 1 - MIN_SHARE:
                return None
            for row in np.flatnonzero(is_missing.any(axis=1)).tolist():
                image.paste(image.crop((0, row - 1, image.width, row)), (0, row))
            return ImageOps.exif_transpose(image)
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
