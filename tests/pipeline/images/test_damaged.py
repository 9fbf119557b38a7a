"""Damaged PNGs and JPEGs: mended where nine tenths of them are there, else refused."""

import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_stored
from pipeline.images.source_image import decode_source

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
                decode_source(jpeg[: int(0.5 * len(jpeg))])
    finally:
        stop.set()
        mending.join()


def photograph(**options: object) -> tuple[bytes, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """A JPEG of 400 x 304 pixels with detail everywhere, and its pixels."""
    y, x = np.mgrid[0:304, 0:400]
    pixels = np.stack([x * 255 // 399, y * 255 // 303, x * y % 255], axis=2).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue(), decode_stored(buffer.getvalue())


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("missing", [1, 2, 12, 40])
def test_a_jpeg_without_its_end_is_kept(missing: int, options: dict[str, object]) -> None:
    data, pixels = photograph(**options)
    decoded = decode_source(data[:-missing])
    assert decoded.ext == "jpg"
    assert decoded.stored_bytes == data[:-missing].rstrip(b"\xff") + b"\xff\xd9"
    differs = (decoded.pixels != pixels).any(axis=(1, 2))
    assert not differs[: int(0.9 * len(differs))].any()
    if missing <= 2:
        assert not differs.any()  # only the end mark is missing


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"restart_marker_rows": 1}], ids=["420", "444", "restarts"]
)
def test_a_jpeg_is_kept_if_nine_tenths_of_its_rows_are_there(options: dict[str, object]) -> None:
    data, pixels = photograph(**options)
    kept = 0
    for share in (0.3, 0.5, 0.8, 0.85, 0.88, 0.9, 0.92, 0.95, 0.98):
        cut = data[: int(share * len(data))].rstrip(b"\xff")
        rows = decode_stored(cut + b"\xff\xd9") != pixels
        num_missing = 304 - int(np.flatnonzero(rows.any(axis=(1, 2)))[0])
        if num_missing <= 30:
            kept += 1
            assert np.array_equal(decode_source(cut).pixels[:-30], pixels[:-30])
        else:
            with pytest.raises(ImageError, match="truncated"):
                decode_source(cut)
    assert 1 <= kept <= 8


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_progressive_jpeg_that_lacks_a_scan_is_refused(share: float) -> None:
    data, _ = photograph(progressive=True)
    with pytest.raises(ImageError, match="truncated"):
        decode_source(data[: int(share * len(data))])


def test_damage_in_a_jpegs_markers_is_refused() -> None:
    data, _ = photograph()
    at = data.index(b"\xff\xda")
    for body in (b"\xff\xda\x00\x02", b"\xff\xda\x00\x03\x03", b"\xff\xc0\x00\x02\xff\xda"):
        with pytest.raises(ImageError):
            decode_source(data[:at] + body)
