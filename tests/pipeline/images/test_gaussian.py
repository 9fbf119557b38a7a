"""Gaussian blurs, against torchvision and sums by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from pipeline.core.errors import InputError
from pipeline.images.gaussian import (
    blur_with_kernels,
    gaussian_blur,
    gaussian_kernel,
    scaled_kernel,
)

ROUNDING = 1e-13  # sums of at most 31 x 31 float64 products of size 1


def random_images(*size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.7), (11, 5.0), (31, 10.0)])
def test_blur_is_torchvisions(kernel: int, sigma: float) -> None:
    image = random_images(2, 3, 33, 40)
    expected = reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    # torchvision builds its kernel in float32 whatever the image.
    torch.testing.assert_close(gaussian_blur(image, kernel, sigma), expected, rtol=0, atol=2e-6)


def test_blur_is_the_sum_over_reflected_neighbours() -> None:
    image = random_images(1, 1, 6, 5)
    weight = [float(np.exp(-0.5 * (i / 1.3) ** 2)) for i in range(-2, 3)]
    total = sum(weight) ** 2

    def reflect(index: int, length: int) -> int:
        return -index if index < 0 else 2 * (length - 1) - index if index >= length else index

    blurred = gaussian_blur(image, 5, 1.3)
    for y in range(6):
        for x in range(5):
            value = sum(
                weight[i + 2] * weight[j + 2] * image[0, 0, reflect(y + i, 6), reflect(x + j, 5)]
                for i in range(-2, 3)
                for j in range(-2, 3)
            )
            assert float(blurred[0, 0, y, x]) == pytest.approx(float(value) / total, abs=1e-12)


def test_each_image_has_its_own_kernel() -> None:
    image = random_images(3, 3, 16, 16)
    sigma = torch.tensor([0.0, 0.8, 2.0], dtype=torch.float64)
    blurred = blur_with_kernels(image, gaussian_kernel(7, sigma))
    assert torch.equal(blurred[0], image[0]), "sigma 0 is the identity"
    for index in (1, 2):
        alone = gaussian_blur(image[index : index + 1], 7, float(sigma[index]))[0]
        torch.testing.assert_close(blurred[index], alone, rtol=0, atol=ROUNDING)


def test_autocast_does_not_cost_precision() -> None:
    image = random_images(1, 3, 16, 16).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gaussian_blur(image, 5, 1.0)
    assert torch.equal(inside, gaussian_blur(image, 5, 1.0))


@pytest.mark.parametrize(
    ("kernel", "sigma", "view_size", "expected"),
    [
        (31, 10.0, 224, (31, 10.0)),
        (11, 5.0, 224, (11, 5.0)),
        (31, 10.0, 112, (15, 5.0)),  # 15.5 taps: 15 is nearer than 17
        (31, 10.0, 64, (9, 20 / 7)),  # 8.86 taps
        (11, 5.0, 64, (3, 10 / 7)),  # 3.14 taps
        (11, 5.0, 32, (3, 5 / 7)),  # 1.57 taps, but 1 filters nothing
    ],
)
def test_scaled_kernel(
    kernel: int, sigma: float, view_size: int, expected: tuple[int, float]
) -> None:
    assert scaled_kernel(kernel, sigma, view_size) == pytest.approx(expected)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(InputError, match="kernel of 4 taps"):
        gaussian_blur(random_images(1, 3, 8, 8), 4, 1.0)


def test_a_kernel_wider_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="17 taps is too wide for 8 pixels"):
        gaussian_blur(random_images(1, 3, 8, 8), 17, 1.0)
