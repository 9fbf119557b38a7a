"""Colour augmentation against torchvision, one operation at a time and together."""

import colorsys
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from tests.training.views.made import KEY_VIEW, QUERY_VIEW
from training.randomness.draws import sample_seeds
from training.views.colours import apply_colours, augment_colours, compose_colours, draw_colours
from training.views.settings import AugmentConfig

BATCH, SIZE = 4, 20
FACTORS = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}
STILL = AugmentConfig(jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0)
ROUNDING = 1e-12  # a dozen float64 products of size 1
WEIGHTS = 1e-4  # torchvision's grey weighs red by 0.2989, ours and Pillow's by 0.299

colours_of = partial(draw_colours, view=QUERY_VIEW, config=AugmentConfig(), view_size=SIZE)


def images(low: float = 0.4, high: float = 0.6) -> Tensor:
    """Mid-range: no factor leaves [0, 1], so that nothing is clamped."""
    generator = torch.Generator().manual_seed(5)
    numbers = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return low + (high - low) * numbers


def seeds(count: int = BATCH) -> NDArray[np.uint64]:
    return sample_seeds(0, 0, np.arange(count))


def coloured(image: Tensor, **factors: float) -> Tensor:
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}
    values = [np.full(len(image), value) for value in (neutral | factors).values()]
    matrix, mean_matrix = compose_colours(*values)
    return apply_colours(image, torch.from_numpy(matrix), torch.from_numpy(mean_matrix))


def assert_same(got: Tensor, expected: Tensor, *, tolerance: float = ROUNDING) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("factor", [0.6, 0.9, 1.0, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_single_operations_are_torchvisions(name: str, factor: float) -> None:
    expected = getattr(reference, f"adjust_{name}")(images(), factor)
    tolerance = ROUNDING if name == "brightness" else WEIGHTS * abs(1 - factor) + ROUNDING
    assert_same(coloured(images(), **{name: factor}), expected, tolerance=tolerance)


@pytest.mark.parametrize("order", itertools.permutations(FACTORS))
def test_every_order_is_the_same_and_without_hue_torchvisions(order: tuple[str, ...]) -> None:
    got = expected = images()
    for name in order:
        got = coloured(got, **{name: FACTORS[name]})
        if name != "hue":
            expected = getattr(reference, f"adjust_{name}")(expected, FACTORS[name])
    assert_same(got, coloured(images(), **FACTORS))
    assert_same(coloured(images(), **(FACTORS | {"hue": 0.0})), expected, tolerance=WEIGHTS)
    grey = coloured(images(), **(FACTORS | {"saturation": 0.0}))
    assert_same(grey, reference.rgb_to_grayscale(expected, 3), tolerance=2 * WEIGHTS)


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


@pytest.mark.parametrize("shift", [-0.05, 0.05])
def test_a_small_hue_shift_has_torchvisions_direction(shift: float) -> None:
    """YIQ keeps the luma and HSV the largest channel: alike in direction, not in size."""
    image = images(0.3, 0.65)
    change = coloured(image, hue=shift) - image
    expected = reference.adjust_hue(image, shift) - image
    expected = expected - reference.rgb_to_grayscale(expected, 3)  # the rotation keeps the luma
    cosine = torch.nn.functional.cosine_similarity(change.flatten(), expected.flatten(), dim=0)
    assert float(cosine) > 0.9
    assert 0.7 < float(change.norm() / expected.norm()) < 1.3


def test_nothing_drawn_changes_nothing() -> None:
    image = images().float()
    assert_same(augment_colours(image, colours_of(seeds(), config=STILL)), image, tolerance=1e-6)


@pytest.mark.parametrize("size", [(6, 5), (64, 64), (224, 200)])
def test_levels_are_coloured_like_floats(size: tuple[int, int]) -> None:
    """Of a decoder, in any memory order and any batch, under autocast too; clamped."""
    generator = torch.Generator().manual_seed(0)
    last = torch.randint(0, 256, (BATCH, *size, 3), dtype=torch.uint8, generator=generator)
    last = last.permute(0, 3, 1, 2)
    matrix, mean_matrix = torch.rand(2, BATCH, 3, 3, generator=generator) - 0.3
    expected = apply_colours(last.double() / 255, matrix.double(), mean_matrix.double()).float()
    wide = last.repeat(1, 1, 1, 2)[..., : size[1]]  # rows stand apart
    for levels in (last, last.contiguous(), wide):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = apply_colours(levels, matrix, mean_matrix)
        assert got.is_contiguous()
        assert_same(got, expected, tolerance=1e-6)
    assert (float(got.min()), float(got.max())) == (0.0, 1.0)
    assert torch.equal(apply_colours(last[1:2], matrix[1:2], mean_matrix[1:2])[0], got[1])


def test_blur_is_torchvisions_per_image() -> None:
    config = AugmentConfig(
        jitter_probability=0.0, grey_probability=0.0, blur_probability=1.0, scale_blur=False
    )
    image = images().float()
    draws = colours_of(seeds(), view=KEY_VIEW, config=config)
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
    draws = colours_of(seeds(2), view_size=view_size)
    assert draws.kernel_BK.shape == (2, taps)
    torch.testing.assert_close(draws.kernel_BK.sum(dim=1), torch.ones(2))


def test_probabilities_and_ranges() -> None:
    count = 4000
    config = AugmentConfig(contrast=0.0, saturation=0.0, hue=0.0)
    draws = colours_of(seeds(count), config=config, view_size=224)
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
    draw = partial(colours_of, view_size=64)  # at smaller sizes few images are blurred
    draws = draw(seeds(8)), draw(seeds(8)[5:6]), draw(seeds(8), view=KEY_VIEW)
    for whole, part, other in zip(*draws, strict=True):
        assert torch.equal(whole[5:6], part)
        assert not torch.equal(whole, other)


def test_other_channels_have_brightness_and_contrast_around_their_own_means() -> None:
    """By the draws of three channels: b (c x + (1 - c) m), here of one grey image five times."""
    generator = torch.Generator().manual_seed(7)
    levels = torch.randint(90, 160, (BATCH, 5, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    config = AugmentConfig(blur_probability=0.0, jitter_probability=1.0, grey_probability=0.5)
    five, three = (colours_of(seeds(), config=config, channels=number) for number in (5, 3))
    got = augment_colours(levels, five)
    for channel in range(5):
        grey = levels[:, channel : channel + 1].repeat(1, 3, 1, 1)
        expected = augment_colours(grey, three)[:, 0]  # hue and saturation leave grey alone
        assert_same(got[:, channel], expected, tolerance=1e-5)
    assert float((got - levels / 255).abs().max()) > 0.05
