"""Values of images of many bands and depths are those that were written."""

import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_stored
from pipeline.images.deep_values import read_values, upright
from pipeline.images.pixel_format import PixelFormat
from pipeline.images.source_image import (
    DecodedSource,
    decode_source,
    read_source,
    shrink_source,
    store_values,
)

FIVE = np.random.default_rng(0).integers(0, 4000, (24, 20, 5)).astype(np.uint16)
WHITE_IS_0 = {"photometric": "miniswhite"}
CONTIGUOUS = {"planarconfig": "contig", "photometric": "minisblack"}


def tiff(values: NDArray[Any], **options: Any) -> bytes:  # noqa: ANN401
    tifffile.imwrite(buffer := BytesIO(), values, **options)
    return buffer.getvalue()


def npy(values: NDArray[Any]) -> bytes:
    np.save(buffer := BytesIO(), values)
    return buffer.getvalue()


def png(values: NDArray[Any], suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


def pillow(values: NDArray[Any], kind: str = "TIFF", **options: Any) -> bytes:  # noqa: ANN401
    Image.fromarray(values).save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def raw_file() -> bytes:
    """As cameras write it: a preview, and the sensor's values in another directory."""
    with tifffile.TiffWriter(buffer := BytesIO()) as file:
        file.write(np.zeros((6, 8, 3), np.uint8), photometric="rgb", subifds=1, subfiletype=1)
        file.write(FIVE[..., 0], photometric="cfa", metadata=None)
    return buffer.getvalue()


def read(data: bytes) -> NDArray[Any]:
    found = read_source(data)
    assert not isinstance(found, DecodedSource)
    return found


@pytest.mark.parametrize(
    "data",
    [
        npy(FIVE),
        npy(FIVE.transpose(2, 0, 1)),
        tiff(FIVE, **CONTIGUOUS),
        tiff(FIVE, **CONTIGUOUS, tile=(16, 16), compression="zlib"),
        tiff(FIVE.transpose(2, 0, 1), planarconfig="separate", photometric="minisblack"),
        tiff(FIVE.transpose(2, 0, 1)),  # a page for each channel
        tiff(FIVE.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}),
        tiff(FIVE.transpose(2, 0, 1), ome=True, metadata={"axes": "CYX"}),
        tiff(FIVE),  # a page for each row, as tifffile writes what it is not told of
    ],
)
def test_bands_are_read_wherever_they_lie(data: bytes) -> None:
    assert np.array_equal(read(data), FIVE)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (npy(FIVE[..., 0]), FIVE[..., [0, 0, 0]]),
        (tiff(FIVE[..., 0]), FIVE[..., [0, 0, 0]]),
        (
            tiff((FIVE / 7).astype("f4")[..., 0], tile=(16, 16)),
            (FIVE / 7).astype("f4")[..., [0] * 3],
        ),
        (pillow(FIVE[..., 0], compression="tiff_lzw"), FIVE[..., [0, 0, 0]]),
        (png(FIVE[..., 0]), FIVE[..., [0, 0, 0]]),
        (png(FIVE[..., :3]), FIVE[..., [2, 1, 0]]),
        (png(FIVE[..., :4]), FIVE[..., [2, 1, 0]]),  # without its transparency
        (tiff(FIVE[..., :3]), FIVE[..., :3]),
        (tiff(FIVE[..., :4]), FIVE[..., :3]),
        (tiff(FIVE[..., :4], **CONTIGUOUS), FIVE[..., :4]),
        (tiff(FIVE[..., :2], **CONTIGUOUS), FIVE[..., :2]),
        (png(FIVE[..., :3], ".tif"), FIVE[..., [2, 1, 0]]),  # LZW
        (tiff(FIVE.transpose(2, 0, 1), metadata=None), FIVE[..., [0, 0, 0]]),  # pages of a document
        (tiff(FIVE.astype("u1"), **CONTIGUOUS), FIVE.astype("u1")),
        # What is white at 0 is turned over, as Pillow does it with 8 bits.
        (tiff(65535 - FIVE[..., 0], **WHITE_IS_0), FIVE[..., [0, 0, 0]]),
        (tiff(-1 - FIVE[..., 0].astype("i2"), **WHITE_IS_0), FIVE[..., [0, 0, 0]].astype("i2")),
        (tiff(-FIVE[..., 0].astype("f4"), **WHITE_IS_0), FIVE[..., [0, 0, 0]].astype("f4")),
    ],
)
def test_colours_grey_and_floats_keep_their_values(data: bytes, wanted: NDArray[Any]) -> None:
    found = read(data)
    assert found.dtype.kind == wanted.dtype.kind
    assert np.array_equal(found, wanted)


def test_eight_bit_images_of_three_channels_are_as_ever() -> None:
    rgb = FIVE[..., :3].astype(np.uint8)
    for data in (tiff(rgb), npy(rgb), pillow(rgb)):
        decoded = read_source(data)
        assert isinstance(decoded, DecodedSource)
        assert np.array_equal(decoded.pixels, rgb)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_pillow_turns_shallow_ones(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    shallow = (FIVE[..., 0] >> 4).astype(np.uint8)
    turned = decode_source(pillow(shallow, "PNG", exif=exif)).pixels
    deep = shallow[..., None].repeat(5, axis=2).astype(np.uint16)
    assert np.array_equal(upright(deep, orientation)[..., :3], turned)
    tagged = tiff(deep, **CONTIGUOUS, extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read(tagged)[..., :3], turned)


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("data", [tiff(FIVE, **CONTIGUOUS), png(FIVE[..., :3]), npy(FIVE)])
def test_truncated_ones_are_refused(data: bytes, share: float) -> None:
    with pytest.raises(ImageError):
        read_source(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.zeros(9)), r"has shape \[9\]"),
        (npy(np.zeros((30, 40, 17))), "wanted are 1 to 16 channels"),
        (npy(np.zeros((0, 4))), "wanted are 1 to 16 channels"),
        (npy(np.asarray([[object()]])), "cannot be read"),
        (npy(FIVE).replace(b"<u2", b"<f8").replace(b"(24, 20, 5), }", b"(9,999999999)}"), "cannot"),
        (npy(np.zeros((40, 30, 2), np.uint16)), "30 x 40 is more than 1000 pixels"),
        (tiff(np.zeros((40, 30, 5), np.uint16), **CONTIGUOUS), "30 x 40 is more than 1000 pixels"),
        (
            tiff(np.zeros((17, 9, 8), np.uint16), metadata={"axes": "CYX"}),
            "has 17 channels, wanted",
        ),
        (raw_file(), "a camera's raw file, or another one that begins with a preview"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            r"a pointer .*: git lfs pull",
        ),
        (
            pillow(FIVE[..., 0], compression="tiff_lzw").replace(
                struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0)
            ),
            "requires the 'imagecodecs' package",  # nobody else would turn it over
        ),
        (b"\n<!DOCTYPE html>", "read, but a web page"),
        (npy(np.full((3, 4), np.nan)), "not finite .*: replace them"),
    ],
)
def test_what_is_no_image_has_a_reason(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_source(data, max_pixels=1000)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_stored_is_what_training_decodes(bits: int) -> None:
    for channels in (2, 3, 5):
        form = PixelFormat(channels=channels, bits=bits, integers=((0.0, 4096.0),) * channels)
        decoded = store_values(FIVE[..., :channels], form)
        assert decoded.num_levels is not None
        assert decoded.num_levels > 100
        assert np.array_equal(decoded.pixels, FIVE[..., :channels] >> 4)
        assert np.array_equal(decode_stored(decoded.stored_bytes, channels), decoded.pixels)
        small = shrink_source(decoded, 10)
        assert small.pixels.shape == (12, 10, channels)
        assert (small.ext == "jpg") == (channels == 3)
        mean = decoded.pixels.reshape(12, 2, 10, 2, channels).mean(axis=(1, 3))
        # Areas are averaged; a JPEG of noise loses more.
        assert np.abs(small.pixels - mean).mean() < (25 if channels == 3 else 0.6)
    with pytest.raises(ImageError, match="holds no 7 channels below each other"):
        decode_stored(decoded.stored_bytes, 7)


def test_an_animated_png_of_16_bits_is_its_first_picture() -> None:
    """Pillow's: OpenCV takes another one."""
    data = png(FIVE[..., :3])
    chunk = b"acTL" + struct.pack(">II", 1, 0)
    part = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    assert read_values(data[:33] + part + data[33:], 10_000) is None
    assert read_values(data, 10_000) is not None
