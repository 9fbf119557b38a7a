"""Colour augmentation against torchvision, one operation at a time and together."""

import colorsys
import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from pipeline.core.errors import InputError
from tests.training.views.made import KEY_VIEW, QUERY_VIEW
from training.randomness.draws import sample_seeds
from training.views.colours import apply_colours, augment_colours, compose_colours, draw_colours
from training.views.settings import AugmentConfig

BATCH, SIZE = 4, 20
FACTORS = [0.6, 0.9, 1.0, 1.4]
STILL = AugmentConfig(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)
ROUNDING = 1e-12  # a dozen float64 products of size 1
WEIGHTS = 1e-4  # torchvision's grey weighs red by 0.2989, ours and Pillow's by 0.299


def images(low: float = 0.3, high: float = 0.65) -> Tensor:
    """Mid-range: no factor in FACTORS leaves [0, 1], so that nothing is clamped."""
    generator = torch.Generator().manual_seed(5)
    numbers = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return low + (high - low) * numbers


def seeds(count: int) -> NDArray[np.uint64]:
    return sample_seeds(0, 0, np.arange(count))


def coloured(
    image: Tensor,
    *,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
) -> Tensor:
    batch = len(image)
    matrix, mean_matrix = compose_colours(
        np.full(batch, brightness),
        np.full(batch, contrast),
        np.full(batch, saturation),
        np.full(batch, hue),
    )
    return apply_colours(image, torch.from_numpy(matrix), torch.from_numpy(mean_matrix))


def assert_same(got: Tensor, expected: Tensor, *, tolerance: float = ROUNDING) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", FACTORS)
def test_single_operations_are_torchvisions(factor: float) -> None:
    image = images()
    brighter = reference.adjust_brightness(image, factor)
    assert_same(coloured(image, brightness=factor), brighter)
    for got, expected in (
        (coloured(image, contrast=factor), reference.adjust_contrast(image, factor)),
        (coloured(image, saturation=factor), reference.adjust_saturation(image, factor)),
    ):
        assert_same(got, expected, tolerance=WEIGHTS * abs(1 - factor) + ROUNDING)


def test_grey_is_torchvisions() -> None:
    image = images()
    expected = reference.rgb_to_grayscale(image, 3)
    assert_same(coloured(image, saturation=0.0), expected, tolerance=WEIGHTS)


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_every_order_is_the_same_and_torchvisions(order: tuple[int, ...]) -> None:
    """Hue left out: it is not torchvision's."""
    expected = image = images(0.4, 0.6)
    for operation in order:
        if operation == 0:
            expected = reference.adjust_brightness(expected, 1.2)
        elif operation == 1:
            expected = reference.adjust_contrast(expected, 0.7)
        else:
            expected = reference.adjust_saturation(expected, 1.3)
    got = coloured(image, brightness=1.2, contrast=0.7, saturation=1.3)
    assert_same(got, expected, tolerance=WEIGHTS)
    grey = coloured(image, brightness=1.2, contrast=0.7, saturation=0.0)
    assert_same(grey, reference.rgb_to_grayscale(expected, 3), tolerance=2 * WEIGHTS)


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_the_four_commute(order: tuple[int, ...]) -> None:
    image = images(0.4, 0.6)
    steps = [{"brightness": 1.2}, {"contrast": 0.7}, {"saturation": 1.3}, {"hue": 0.1}]
    got = image
    for operation in order:
        got = coloured(got, **steps[operation])
    together = coloured(image, brightness=1.2, contrast=0.7, saturation=1.3, hue=0.1)
    assert_same(got, together)


@pytest.mark.parametrize("shift", [-0.1, 0.03, 0.25])
def test_hue_is_a_rotation_in_yiq(shift: float) -> None:
    """Against the standard library's YIQ, whose coefficients are rounded to two digits."""
    image = images()
    got = coloured(image, hue=shift)
    angle = -2 * math.pi * shift
    for y, x in itertools.product(range(0, SIZE, 5), repeat=2):
        luma, i, q = colorsys.rgb_to_yiq(*image[0, :, y, x].tolist())
        turned = (
            i * math.cos(angle) - q * math.sin(angle),
            i * math.sin(angle) + q * math.cos(angle),
        )
        expected = colorsys.yiq_to_rgb(luma, *turned)
        assert got[0, :, y, x].tolist() == pytest.approx(expected, abs=0.005)


def test_hue_keeps_grey_and_full_turns() -> None:
    grey = images()[:, :1].expand(-1, 3, -1, -1)
    assert_same(coloured(grey, hue=0.1), grey)
    assert_same(coloured(images(), hue=1.0), images())


@pytest.mark.parametrize("shift", [-0.05, 0.05])
def test_a_small_hue_shift_goes_where_torchvisions_goes(shift: float) -> None:
    """YIQ keeps the luma and HSV the largest channel: alike in direction, not in size."""
    image = images()
    change = coloured(image, hue=shift) - image
    expected = reference.adjust_hue(image, shift) - image
    # Without the change of luma, which the rotation leaves out on purpose.
    expected = expected - reference.rgb_to_grayscale(expected, 3)
    cosine = torch.nn.functional.cosine_similarity(change.flatten(), expected.flatten(), dim=0)
    assert float(cosine) > 0.9
    assert 0.7 < float(change.norm() / expected.norm()) < 1.3


def test_values_stay_in_range() -> None:
    image = images(0.0, 1.0)
    got = coloured(image, brightness=1.4, contrast=1.4, saturation=1.4)
    assert float(got.min()) == 0.0
    assert float(got.max()) == 1.0


def test_nothing_drawn_changes_nothing() -> None:
    image = images().float()
    draws = draw_colours(seeds(BATCH), view=QUERY_VIEW, config=STILL, view_size=SIZE)
    torch.testing.assert_close(augment_colours(image, draws), image, rtol=0, atol=1e-6)


def test_a_decoder_s_levels_are_coloured_alike() -> None:
    levels = (images(0.0, 1.0) * 255).round()
    draws = draw_colours(seeds(BATCH), view=QUERY_VIEW, config=AugmentConfig(), view_size=SIZE)
    expected = augment_colours(levels.float() / 255, draws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = augment_colours(levels.to(torch.uint8), draws)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_blur_is_torchvisions_per_image() -> None:
    config = AugmentConfig(
        jitter_probability=0.0, grey_probability=0.0, blur_probability=1.0, scale_blur=False
    )
    image = images().float()
    draws = draw_colours(seeds(BATCH), view=KEY_VIEW, config=config, view_size=SIZE)
    got = augment_colours(image, draws)
    taps = draws.kernel_BK.shape[1]
    assert taps == 13, "three sigmas of 2 px to each side"
    for index in range(BATCH):
        centre, neighbour = draws.kernel_BK[index, 6:8].double().tolist()
        sigma = (-0.5 / math.log(neighbour / centre)) ** 0.5
        assert 0.1 <= sigma <= 2.0
        expected = reference.gaussian_blur(image[index : index + 1], [taps, taps], [sigma, sigma])
        # float32; sigma is read back from a kernel in float32.
        torch.testing.assert_close(got[index : index + 1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("view_size", "taps"), [(224, 13), (112, 7), (64, 5), (32, 3)])
def test_blur_scales_with_the_view(view_size: int, taps: int) -> None:
    draws = draw_colours(seeds(2), view=KEY_VIEW, config=AugmentConfig(), view_size=view_size)
    assert draws.kernel_BK.shape == (2, taps)
    torch.testing.assert_close(draws.kernel_BK.sum(dim=1), torch.ones(2))


def test_probabilities_and_ranges() -> None:
    count = 4000
    config = AugmentConfig(contrast=0.0, saturation=0.0, hue=0.0)
    draws = draw_colours(seeds(count), view=QUERY_VIEW, config=config, view_size=224)
    matrix = draws.matrix_B33
    grey = (matrix[:, 0] - matrix[:, 1]).abs().amax(dim=1) < 1e-6
    factor = matrix[~grey, 0, 0]
    still = (factor - 1.0).abs() < 1e-6
    unblurred = draws.kernel_BK[:, 6] == 1.0

    def rate(flags: Tensor) -> float:
        return float(flags.double().mean())

    # Four standard errors. The blur of the smallest sigmas is the identity in float32 as well: up
    # to 0.17 px, 0.0175 of all.
    assert rate(grey) == pytest.approx(0.2, abs=4 * (0.16 / count) ** 0.5)
    assert rate(still) == pytest.approx(0.2, abs=4 * (0.16 / count / 0.8) ** 0.5)
    assert rate(unblurred) == pytest.approx(0.5175, abs=4 * (0.25 / count) ** 0.5)
    changed = factor[~still].double().sort().values
    assert 0.6 <= float(changed[0]) < 0.61
    assert 1.39 < float(changed[-1]) <= 1.4
    steps = torch.linspace(0.6, 1.4, len(changed), dtype=torch.float64)
    assert float((changed - steps).abs().max()) < 0.8 * 1.95 / len(changed) ** 0.5


def test_a_sample_is_coloured_the_same_in_any_batch() -> None:
    whole = draw_colours(seeds(8), view=KEY_VIEW, config=AugmentConfig(), view_size=64)
    part = draw_colours(seeds(8)[5:6], view=KEY_VIEW, config=AugmentConfig(), view_size=64)
    other = draw_colours(seeds(8), view=QUERY_VIEW, config=AugmentConfig(), view_size=64)
    for a, b, c in zip(whole, part, other, strict=True):
        assert torch.equal(a[5:6], b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"brightness": 1.1}, "brightness is 1.1: wanted 0 to 1"),
        ({"hue": 0.6}, "hue is 0.6: wanted 0 to 0.5"),
        ({"grey_probability": -0.1}, "grey_probability"),
        ({"blur_probability": float("nan")}, "blur_probability"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"blur_sigma": (2.0, 1.0)}, "blur_sigma is 2.0 to 1.0"),
    ],
)
def test_a_config_out_of_range_names_the_field(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        AugmentConfig(**change)  # type: ignore[arg-type]
