"""Stored maps are averages of maps; errors of OpenCV are errors of one image, and silent."""

import os
import tempfile
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import ImageError
from pipeline.images.codecs import (
    decode_saliency,
    decode_stored,
    encode,
    encode_channels,
    encode_saliency,
    saliency_levels,
)


def png() -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").convert("RGB").resize((48, 32)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_map_of_any_size_is_stored_as_its_averages() -> None:
    saliency = np.random.default_rng(0).random((112, 112), dtype=np.float32)
    levels = decode_saliency(encode_saliency(saliency, 56))
    assert np.array_equal(levels, saliency_levels(saliency, 56))
    means = saliency.reshape(56, 2, 56, 2).mean(axis=(1, 3))
    assert levels.shape == (56, 56)
    assert levels.dtype == np.uint8
    assert np.abs(levels / 255.0 - means).max() <= 0.5 / 255 + 1e-6  # rounding to 8 bit
    for shape in ((1, 1), (3, 200), (7, 7)):
        assert (saliency_levels(np.full(shape, 0.5, np.float32), 56) == 128).all()


def test_a_map_that_is_no_map_is_refused() -> None:
    for wrong in (np.zeros((0, 4)), np.zeros((2, 2, 3)), np.array([[np.nan]])):
        with pytest.raises(ValueError, match="saliency map"):
            encode_saliency(wrong.astype(np.float32), 56)
    with pytest.raises(ImageError, match="square"):
        decode_saliency(png())


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_channels_lie_in_their_order_for_other_readers(channels: int) -> None:
    """Three are RGB, others a column of grey ones, the first on top."""
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, channels), np.uint8)
    data = encode_channels(levels)
    stored = np.asarray(Image.open(BytesIO(data)))
    expected = levels if channels == 3 else np.concatenate([*np.moveaxis(levels, 2, 0)])
    assert np.array_equal(stored, expected)
    assert np.array_equal(decode_stored(data, channels), levels)
    deep = encode_channels(levels.astype(np.uint16) * 256 + 200)
    assert np.array_equal(decode_stored(deep, channels), levels), "the high byte, not rounded"
    if channels != 3:
        assert np.array_equal(np.asarray(Image.open(BytesIO(deep))) >> 8, expected)


def test_what_cannot_be_encoded_is_an_error_of_the_image() -> None:
    for suffix, shape in ((".jpg", (1, 70_000)), (".png", (0, 5)), (".webp", (1, 20_000))):
        with pytest.raises(ImageError, match="cannot be encoded"):
            encode(suffix, np.zeros(shape, np.uint8))


def test_damaged_images_print_nothing_from_opencv() -> None:
    data = bytearray(png())
    data[60] ^= 0xFF
    with tempfile.TemporaryFile() as spy:
        keep = os.dup(2)
        os.dup2(spy.fileno(), 2)
        try:
            with pytest.raises(ImageError):
                decode_stored(bytes(data[:70]))
        finally:
            os.dup2(keep, 2)
            os.close(keep)
        spy.seek(0)
        assert spy.read() == b""
