"""PNGs with damage: mended where their pixels are there, refused where they are not."""

import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_source, decode_stored

ADAM7 = ((0, 0, 8), (4, 0, 8), (0, 4, 4), (2, 0, 4), (0, 2, 2), (1, 0, 2), (0, 1, 1))
"""First column, first row and step of columns of each pass; rows step by 8, 8, 8, 4, 4, 2, 2."""


def noise(mode: str = "RGB", kind: str = "PNG", **options: object) -> bytes:
    """An image file of 50 x 40 pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(pixels), BytesIO()
    image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def interlaced_png() -> bytes:
    """Grey noise in seven passes, which Pillow cannot write."""
    data, rows = noise("L"), (8, 8, 8, 4, 4, 2, 2)
    pixels = np.asarray(Image.open(BytesIO(data)))
    passes = [pixels[y::dy, x::dx] for (x, y, dx), dy in zip(ADAM7, rows, strict=True)]
    stream = b"".join(b"\0" + line.tobytes() for part in passes for line in part)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 50, 8, 0, 0, 0, 1))
    body = chunk(b"IDAT", zlib.compress(stream)) + chunk(b"IEND", b"")
    return data[:8] + header + body


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16", "interlaced"])
def test_damage_beside_the_pixels_of_a_png_costs_nothing(mode: str) -> None:
    """A comment that is shorter than it says, at the end and at the start."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = interlaced_png() if mode == "interlaced" else noise(mode, exif=exif)
    whole = decode_source(data)
    cut_end = data[:-12] + struct.pack(">I", 100) + b"tEXt" + b"broken"
    broken_start = data[:33] + chunk(b"pHYs", b"123") + data[33:]
    for damaged in (cut_end, broken_start):
        with pytest.raises((OSError, ValueError), match="Truncated"):
            Image.open(BytesIO(damaged)).load()
        decoded = decode_source(damaged)
        assert np.array_equal(decoded.pixels, whole.pixels)
        assert np.array_equal(decode_stored(decoded.stored_bytes), whole.pixels)
        assert decoded.stored_bytes != damaged


@pytest.mark.parametrize(
    ("data", "most"), [(noise(), 5), (interlaced_png(), 10)], ids=["rows", "passes"]
)
def test_missing_rows_of_a_png_repeat_the_one_above(data: bytes, most: int) -> None:
    whole = decode_source(data).pixels
    pixels = decode_source(data[: int(0.95 * len(data))]).pixels
    missing = [row for row in range(50) if not np.array_equal(pixels[row], whole[row])]
    assert 1 <= len(missing) <= most
    assert missing[-1] == 49
    assert all(np.array_equal(pixels[row], pixels[row - 1]) for row in missing)


def test_a_png_that_is_damaged_for_good_is_refused() -> None:
    buffer = BytesIO()
    Image.linear_gradient("L").rotate(30).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    with pytest.raises(ImageError, match="truncated"):
        decode_source(bytes(data[: len(data) // 2]))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_source(bytes(data))


def test_mending_in_one_thread_leaves_the_others_strict() -> None:
    data = noise()
    stop = threading.Event()

    def mend() -> None:
        while not stop.is_set():
            decode_source(data[: int(0.97 * len(data))])

    mending = threading.Thread(target=mend)
    mending.start()
    try:
        jpeg = noise(kind="JPEG")
        for _ in range(50):
            with pytest.raises(ImageError, match="truncated"):
                decode_source(jpeg[: int(0.97 * len(jpeg))])
    finally:
        stop.set()
        mending.join()
