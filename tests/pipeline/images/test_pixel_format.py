"""Levels of images of more than 8 bits, against the formula, pixel by pixel."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.core.plain import fitted
from pipeline.images.pixel_format import IMAGENET, PLAIN, PixelFormat


def image(dtype: str, high: float, channels: int = 2) -> NDArray[Any]:
    values = np.random.default_rng(1).uniform(-0.1 * high, 1.1 * high, (6, 5, channels))
    return values.clip(0 if dtype.startswith("u") else -np.inf).astype(dtype)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("dtype", "high"), [("uint16", 4096.0), ("int32", 900.0), ("f4", 0.7)])
def test_levels_are_those_of_the_formula(dtype: str, high: float, bits: int) -> None:
    ranges = (0.0, high), (0.25 * high, 0.5 * high)
    form = PixelFormat(channels=2, bits=bits, integers=ranges, floats=ranges)
    values = image(dtype, high)
    levels, outside = form.levels(values)
    num_outside = 0
    for (y, x, channel), value in np.ndenumerate(values):
        low, top = ranges[channel]
        level = math.floor((1 << bits) * (float(value) - low) / (top - low))
        assert levels[y, x, channel] == min(max(level, 0), (1 << bits) - 1)
        num_outside += not low <= value <= top
    assert levels.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert outside == num_outside / values.size > 0
    if bits == 16:  # training reads the high byte, and so the levels of 8 bits
        assert np.array_equal(levels >> 8, replace(form, bits=8).levels(values)[0])


def test_eight_bits_stay_as_they_are_whatever_the_range() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 8, 2)
    form = PixelFormat(channels=2, integers=((9.0, 10.0),) * 2)
    assert np.array_equal(form.levels(values)[0], values)
    assert np.array_equal(replace(form, bits=16).levels(values)[0] >> 8, values)
    constant = PixelFormat(channels=2, integers=((7.0, 7.0),) * 2)
    assert not constant.levels(np.full((2, 2, 2), 7, np.uint16))[0].any()


def test_what_does_not_fit_the_set_is_refused_by_image() -> None:
    form = PixelFormat(channels=2, integers=((0.0, 4096.0),) * 2)
    cases = {
        "has 3 channels, and the images of the set 2": image("uint16", 9, channels=3),
        "holds floats, of which the set has no range": image("f4", 9),
        "not finite": np.full((2, 2, 2), np.nan),
        "holds complex64": np.ones((2, 2, 2), np.complex64),
    }
    for words, values in cases.items():
        with pytest.raises(ImageError, match=words):
            form.levels(values)
    with pytest.raises(ImageError, match="wanted are 1 to 16 channels"):
        replace(form, channels=17).levels(image("uint16", 9, channels=17))


def test_json_gives_the_format_back() -> None:
    form = PixelFormat(channels=2, floats=((0.0, 1.5), (-1.0, 2.0)), mean=(0.1, 0.2), std=(1, 2))
    assert fitted(PixelFormat, json.loads(json.dumps(asdict(form)))) == form
    assert fitted(PixelFormat, {}) == PLAIN
    assert PLAIN.normalisation == IMAGENET
    assert form.words == "2 channels, floats -1 to 2"


def test_sets_of_other_ranges_are_not_the_same_pixels() -> None:
    form = PixelFormat(integers=((0.0, 4096.0),) * 3)
    form.check_same(replace(form, mean=(0.1, 0.1, 0.1)), "val")
    form.check_same(PLAIN, "val")  # 8-bit images are stored as they are in both
    for other in (replace(form, integers=((0.0, 2048.0),) * 3), replace(form, channels=5)):
        with pytest.raises(InputError, match=r"val has .*, where .* --range like SHARDS"):
            form.check_same(other, "val")
