"""Blurs, normalisation and the high-pass: torchvision's, sums by hand, and OpenCV's fast path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from pipeline.core.errors import InputError
from pipeline.images.filters import (
    blur_in_place,
    blur_with_kernels,
    blurred_high_pass,
    gaussian_blur,
    gaussian_kernel,
    high_pass,
    normalise,
    opencv_can_blur,
    scaled_kernel,
)
from pipeline.images.pixel_format import IMAGENET_MEAN, IMAGENET_STD

ROUNDING = 1e-13  # sums of at most 31 x 31 float64 products of size 1
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def images(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(size or (4, 3, 40, 33), generator=generator, dtype=torch.float64).to(dtype)


def by_matrices(x: Tensor, kernel: Tensor) -> Tensor:
    """Where a gradient is wanted OpenCV is not used."""
    wanted = x.clone().requires_grad_()
    assert not opencv_can_blur(wanted)
    return blur_with_kernels(wanted, kernel).detach()


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.7), (11, 5.0), (31, 10.0)])
def test_blur_is_torchvisions(kernel: int, sigma: float) -> None:
    image = images(2, 3, 33, 40)
    expected = reference.gaussian_blur(image, [kernel, kernel], [sigma, sigma])
    # torchvision builds its kernel in float32 whatever the image.
    torch.testing.assert_close(gaussian_blur(image, kernel, sigma), expected, rtol=0, atol=2e-6)


def test_blur_is_the_sum_over_reflected_neighbours() -> None:
    image = images(1, 1, 6, 5)
    weight = np.exp(-0.5 * (np.arange(-2, 3) / 1.3) ** 2)
    around = np.pad(image[0, 0].numpy(), 2, mode="reflect")
    blurred = gaussian_blur(image, 5, 1.3)[0, 0]
    for y in range(6):
        for x in range(5):
            expected = weight @ around[y : y + 5, x : x + 5] @ weight / weight.sum() ** 2
            assert float(blurred[y, x]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("taps", [3, 13, 31])
def test_opencv_and_matrices_blur_the_same(taps: int, dtype: torch.dtype, atol: float) -> None:
    """Each image by its own kernel, or all by one, in any memory order."""
    sigmas = torch.tensor([0.0, 0.3, 2.0, 10.0], dtype=dtype)
    own, one = gaussian_kernel(taps, sigmas), gaussian_kernel(taps, sigmas[2:3])
    x = images(dtype=dtype)
    last = x.to(memory_format=torch.channels_last)
    for kernel in (own, one):
        blurred = blur_with_kernels(x, kernel)
        assert blurred.dtype == dtype
        torch.testing.assert_close(blurred, by_matrices(x, kernel), rtol=0, atol=atol)
        assert torch.equal(blur_with_kernels(last, kernel), blurred)
        alone = blur_with_kernels(x[1:3, :, :, :32], kernel[-2:])
        part = x[1:3, :, :, :32].contiguous()
        assert torch.equal(alone, blur_with_kernels(part, kernel[-2:]))
    assert torch.equal(blur_with_kernels(x, own)[0], x[0]), "a sigma of 0 is the identity"
    narrow = own[:, 1:-1]
    wide = torch.nn.functional.pad(narrow, (1, 1))
    assert torch.equal(blur_with_kernels(x, wide), blur_with_kernels(x, narrow))


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_that_are_given_up_are_blurred_the_same(dtype: torch.dtype) -> None:
    kernel = gaussian_kernel(5, torch.tensor([0.0, 1.0, 0.0, 2.0])).to(dtype)
    x = images(dtype=dtype)
    expected = blur_with_kernels(x, kernel)
    assert torch.equal(blur_in_place(x.clone(), kernel), expected)
    turned = x.clone().to(memory_format=torch.channels_last)
    torch.testing.assert_close(blur_in_place(turned, kernel), expected, rtol=0, atol=1e-2)
    assert opencv_can_blur(x) == (dtype != torch.bfloat16)


def test_autocast_does_not_cost_precision() -> None:
    image, kernel = images(1, 3, 16, 16).float(), gaussian_kernel(5, torch.ones(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = by_matrices(image, kernel)
    assert torch.equal(inside, by_matrices(image, kernel))


def test_gradients_pass_where_they_are_wanted() -> None:
    """Also through constants that were made in inference mode."""
    x = images(4, 3, 8, 8)
    with torch.inference_mode():
        inside = gaussian_blur(normalise(x), 3, 0.9)
    wanted = x.clone().requires_grad_()
    blurred = gaussian_blur(normalise(wanted), 3, 0.9)
    torch.testing.assert_close(inside, blurred.detach())
    (blurred * torch.tensor(IMAGENET_STD)[:, None, None]).sum().backward()
    # Each pixel's weights sum to 1 over the image, but for what reflection counts twice.
    assert wanted.grad is not None
    assert float(wanted.grad.sum()) == pytest.approx(x.numel())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are constants there
def test_a_recorded_graph_works_on_other_images() -> None:
    kernel = gaussian_kernel(5, torch.tensor([1.0]))
    first, second = images().float(), images().float().flip(0)
    traced = torch.jit.trace(lambda x: blur_with_kernels(x, kernel), first)
    torch.testing.assert_close(traced(second), blur_with_kernels(second, kernel))


@pytest.mark.parametrize(
    ("kernel", "sigma", "view_size", "expected"),
    [
        (31, 10.0, 224, (31, 10.0)),
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


def test_kernels_that_do_not_fit_are_refused() -> None:
    x, own = images(4, 3, 8, 8), gaussian_kernel(17, torch.ones(4, dtype=torch.float64))
    with pytest.raises(InputError, match="kernel of 4 taps"):
        gaussian_blur(x, 4, 1.0)
    for blur in (blur_with_kernels, blur_in_place):
        with pytest.raises(InputError, match="17 taps is too wide for 8 pixels"):
            blur(x, own)
    with pytest.raises(InputError, match="17 taps is too wide for 8 pixels"):
        blurred_high_pass(x, own, 3, 1.0)
    with pytest.raises(InputError, match="19 taps is too wide for 8 pixels"):
        blurred_high_pass(x, None, 19, 1.0)


def test_goldens(golden: Path) -> None:
    fills = {name: torch.from_numpy(v)[None] for name, v in np.load(golden / "fills.npz").items()}
    got = normalise(fills["image01"])
    torch.testing.assert_close(got, fills["normalised"], rtol=0, atol=ROUNDING)
    got = high_pass(fills["normalised"], 11, 5.0)
    torch.testing.assert_close(got, fills["high_pass"], rtol=0, atol=ROUNDING)


def test_normalise_is_torchvisions_to_the_last_bit() -> None:
    image = images(2, 3, 9, 7).float()
    assert torch.equal(normalise(image), reference.normalize(image, IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_high_pass_is_what_the_blur_takes_away(dtype: torch.dtype) -> None:
    x = images(dtype=dtype)
    expected = x - gaussian_blur(x, 5, 1.5)
    assert torch.equal(high_pass(x, 5, 1.5), expected)
    for out in (torch.empty_like(x), x):
        assert high_pass(x, 5, 1.5, out=out) is out
        assert torch.equal(out, expected)
    flat = torch.full((1, 3, 16, 20), 0.3, dtype=torch.float64)
    assert float(high_pass(flat, 11, 5.0).abs().max()) < ROUNDING


@pytest.mark.parametrize(("dtype", "atol"), zip(DTYPES, (3e-6, 1e-14, 0), strict=True))
@pytest.mark.parametrize("blurred_first", [False, True])
def test_filters_at_once_change_roundings_only(
    blurred_first: bool, dtype: torch.dtype, atol: float
) -> None:
    """Plane by plane, and for bfloat16 one after the other; the first image is not blurred."""
    x = images(dtype=torch.float32).to(dtype)
    own = gaussian_kernel(7, torch.tensor([0.0, 0.1, 0.5, 2.0], dtype=dtype))
    blurred = blur_with_kernels(x, own) if blurred_first else x
    expected = high_pass(normalise(blurred), 5, 1.5)
    kernels = own if blurred_first else None
    first, made = blurred_high_pass(x.clone(), kernels, 5, 1.5)
    assert torch.equal(first, blurred)
    torch.testing.assert_close(made, expected, rtol=0, atol=atol)
    out = torch.empty_like(x)
    assert blurred_high_pass(x.clone(), kernels, 5, 1.5, out=out)[1] is out
    assert torch.equal(out, made)
    itself = x.clone()
    assert torch.equal(blurred_high_pass(itself, kernels, 5, 1.5, out=itself)[1], made)
    turned = blurred_high_pass(x.to(memory_format=torch.channels_last), kernels, 5, 1.5)
    torch.testing.assert_close(turned, (blurred, made), rtol=0, atol=max(atol, 3e-6))
