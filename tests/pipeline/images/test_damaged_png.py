"""A PNG of which nearly all is there is mended; one that is damaged for good is not."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_source, decode_stored
from pipeline.images.damaged_png import ADAM7, SIGNATURE, mend_png


def noise(mode: str = "RGB", width: int = 40, height: int = 50) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(image: Image.Image, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def header(*, colour: int = 2, depth: int = 8, width: int = 9, height: int = 9) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def interlaced(pixels: NDArray[np.uint8]) -> bytes:
    """An Adam7 PNG of grey pixels, which Pillow cannot write."""
    passes = [pixels[y::dy, x::dx] for x, y, dx, dy in ADAM7]
    lines = [b"\0" + row.tobytes() for part in passes for row in part if row.size]
    head = struct.pack(">IIBBBBB", *pixels.shape[::-1], 8, 0, 0, 0, 1)
    stream = chunk(b"IDAT", zlib.compress(b"".join(lines)))
    return SIGNATURE + chunk(b"IHDR", head) + stream + chunk(b"IEND", b"")


def with_broken_end(data: bytes) -> bytes:
    """A comment in place of the end that is shorter than it says."""
    return data[:-12] + struct.pack(">I", 100) + b"tEXt" + b"broken"


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA", "I;16"])
def test_a_cut_end_costs_nothing(mode: str) -> None:
    image = noise("L").convert("I").convert("I;16") if mode == "I;16" else noise(mode)
    data = png(image)
    cut = with_broken_end(data)
    with pytest.raises(OSError, match="Truncated"):
        Image.open(BytesIO(cut)).load()
    assert np.array_equal(decode_source(cut).pixels, decode_source(data).pixels)


def test_an_interlaced_picture_is_mended_too() -> None:
    pixels = np.asarray(noise("L", 13, 11))
    for data in (interlaced(pixels), with_broken_end(interlaced(pixels))):
        assert np.array_equal(decode_source(data).pixels[..., 0], pixels)


def test_a_broken_comment_costs_nothing() -> None:
    data = png(noise())
    after_header = 8 + 25
    bad = data[:after_header] + chunk(b"pHYs", b"123") + data[after_header:]
    with pytest.raises(ValueError, match="Truncated pHYs"):
        Image.open(BytesIO(bad)).load()
    decoded = decode_source(bad)
    assert np.array_equal(decoded.pixels, decode_source(data).pixels)
    assert np.array_equal(decode_stored(decoded.stored_bytes), decoded.pixels)


def test_orientation_and_palette_are_kept() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGB", "P"):
        data = png(noise(mode), exif=exif)
        mended = decode_source(with_broken_end(data))
        assert mended.pixels.shape == (40, 50, 3)
        assert np.array_equal(mended.pixels, decode_source(data).pixels)


def test_missing_lines_repeat_the_one_above() -> None:
    data = png(noise())
    whole = decode_source(data).pixels
    cut = data[: int(0.97 * len(data))]
    pixels = decode_source(cut).pixels
    good = next(n for n in range(50) if not np.array_equal(pixels[n], whole[n]))
    assert 45 <= good < 50
    assert all(np.array_equal(pixels[n], whole[good - 1]) for n in range(good, 50))


def test_a_picture_that_is_damaged_for_good_is_refused() -> None:
    smooth = Image.linear_gradient("L").convert("RGB").resize((64, 80)).rotate(30)
    data = bytearray(png(smooth))
    with pytest.raises(ImageError, match="truncated"):
        decode_source(bytes(data[: len(data) // 2]))
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_source(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SIGNATURE,
        SIGNATURE + chunk(b"IDAT", b"x"),
        SIGNATURE + chunk(b"IHDR", b"short"),
        SIGNATURE + header(width=0),
        SIGNATURE + header(depth=3),
        SIGNATURE + header(colour=5),
        SIGNATURE + header(width=1 << 31),
        b"\xff\xd8\xff\xe0",
    ],
)
def test_what_cannot_be_mended_is_left(data: bytes) -> None:
    assert mend_png(data) is None


def test_what_is_mended_needs_no_mending() -> None:
    mended = mend_png(with_broken_end(png(noise())))
    assert mended is not None
    assert mend_png(mended) is None


def test_a_stream_that_swells_is_read_no_further_than_the_picture() -> None:
    bomb = chunk(b"IDAT", zlib.compress(bytes(100 << 20)))
    mended = mend_png(SIGNATURE + header(colour=0) + bomb)
    assert mended is not None
    assert len(mended) < 200
