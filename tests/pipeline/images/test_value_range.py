"""The range of a set follows from all values of its images, in any order and any grouping."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.images.pixel_format import IMAGENET, PixelFormat
from pipeline.images.value_range import (
    SeenValues,
    check_range,
    declared,
    look_at,
    merged,
    plain_images,
)

Images = list[NDArray[np.generic]]


def seen(images: Images, num_plain: int = 0) -> list[SeenValues]:
    plain = [plain_images(num_plain)] if num_plain else []
    return merged([*plain, *(look_at(image) for image in images)])


def made(high: float, dtype: str, channels: int = 3, count: int = 6, least: int = 0) -> Images:
    rng = np.random.default_rng(2)
    return [rng.uniform(least, high, (30, 31, channels)).astype(dtype) for _ in range(count)]


@pytest.mark.parametrize(
    ("least", "greatest", "low", "high"),
    [
        (0, 4095, 0, 4096),
        (0, 4096, 0, 8192),
        (0, 255, 0, 256),
        (0, 256, 0, 512),
        (0, 65535, 0, 65536),
        (3, 0, 0, 4),
        (0, 0, 0, 1),
        (-1, 5, -1, 8),
        (-1024, 3071, -1024, 4096),
        (-1025, -3, -2048, 1),
    ],
)
def test_integers_have_the_least_power_of_two_that_holds_the_set(
    least: int, greatest: int, low: int, high: int
) -> None:
    images: Images = [np.full((4, 4, 3), value, np.int32) for value in (least, greatest)]
    images[1][2, 1, 0] = max(least, greatest)  # one pixel decides
    form = declared([*seen(images[:1]), *seen(images[1:])])
    assert form.integers == ((float(low), float(high)),) * 3
    assert form.floats == ()


def test_floats_have_the_range_of_each_channel() -> None:
    images = made(1.0, "f4", channels=4)
    images[3][7, 8, 2] = -2.5
    whole = np.concatenate([image.reshape(-1, 4) for image in images]).astype(np.float64)
    form = declared([*seen(images[:2]), *seen(images[2:])])
    assert form.channels == 4
    assert form.floats == tuple(zip(whole.min(axis=0), whole.max(axis=0), strict=True))


def test_percentiles_are_those_of_all_values() -> None:
    images = [image**3 for image in made(10.0, "f8")]  # far from even
    whole = np.concatenate([image.reshape(-1, 3) for image in images])
    form = declared([*seen(images[:1]), *seen(images[1:])], ("percentile", "98"))
    expected = np.quantile(whole, [0.02, 0.98], axis=0)
    for channel, (low, high) in enumerate(form.floats):
        for found, at in ((low, 0.02), (high, 0.98)):
            # So many of the values, to within the quantiles of which shards keep 1,000.
            assert np.mean(whole[:, channel] <= found) == pytest.approx(at, abs=0.002)
        assert high == pytest.approx(expected[1, channel], rel=0.02)
    all_of_it = declared(seen(images), ("percentile", "100"))
    assert all_of_it == declared(seen(images))


def test_given_numbers_are_the_range_of_all_channels() -> None:
    form = declared(seen(made(900, "u2")), ("10", "500.5"), bits=16)
    assert form.integers == ((10.0, 500.5),) * 3
    assert form.bits == 16


@pytest.mark.parametrize(
    ("dtype", "high", "least"),
    [("u2", 4000, 0), ("f4", 0.3, 0), ("u1", 256, 0), ("f4", 5.3, 5), ("i4", 2000, -1000)],
)
def test_mean_and_std_are_those_of_the_stored_levels(dtype: str, high: float, least: int) -> None:
    images = made(high, dtype, channels=5, least=least)
    form = declared([*seen(images[:4]), *seen(images[4:])])
    levels = np.concatenate([form.levels(image)[0].reshape(-1, 5) for image in images]) / 255
    np.testing.assert_allclose(form.mean, levels.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(form.std, levels.std(axis=0), atol=0.01)


def test_images_of_eight_bits_keep_imagenets_statistics_and_have_no_range() -> None:
    form = declared(seen(made(4000, "u2"), num_plain=1))
    assert form.integers
    assert form.normalisation == IMAGENET
    assert declared(seen([], num_plain=3)) == PixelFormat()
    flat = declared(seen([np.full((9, 9, 2), 5, np.uint16)]))
    assert min(flat.std) > 0


def test_most_images_decide_on_the_channels_unless_they_are_given() -> None:
    five, two = seen(made(9, "u2", channels=5, count=3)), seen(made(9, "u2", channels=2, count=2))
    assert declared([*five, *two, plain_images(2)]).channels == 5
    assert declared([*five, *two, plain_images(4)]).channels == 3
    assert declared([*five, *two], channels=3) == PixelFormat()


@pytest.mark.parametrize(
    "words",
    [(), ("auto", "1"), ("5",), ("5", "5"), ("9", "1"), ("a", "b"), ("percentile",), ("1", "inf")]
    + [("percentile", p) for p in ("50", "101", "x", "nan")],
)
def test_a_range_that_is_not_understood_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"wanted auto, LOW HIGH, percentile P or like SHARDS"):
        check_range(words)
