"""OpenCV's blur is the matrix products' blur, and keeps out of what it cannot do."""

import pytest
import torch
from torch import Tensor

import pipeline.images.cpu_blur
from pipeline.core.errors import InputError
from pipeline.images.cpu_blur import blur_planes, can_blur
from pipeline.images.filters import blurred_high_pass, high_pass, normalise
from pipeline.images.gaussian import (
    blur_in_place,
    blur_with_kernels,
    gaussian_blur,
    gaussian_kernel,
)


def images(dtype: torch.dtype, height: int = 40, width: int = 33) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, height, width, generator=generator, dtype=dtype)


@pytest.fixture
def without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.images.cpu_blur, "can_blur", lambda _images: False)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("taps", [3, 13, 31])
@pytest.mark.usefixtures("without_opencv")
def test_is_the_blur_by_matrices(taps: int, dtype: torch.dtype, atol: float) -> None:
    sigmas = torch.tensor([0.0, 0.3, 2.0, 10.0], dtype=dtype)
    own, one = gaussian_kernel(taps, sigmas), gaussian_kernel(taps, sigmas[2:3])
    x = images(dtype)
    for kernel in (own, one):
        blurred = blur_planes(x, kernel)
        assert blurred.dtype == dtype
        torch.testing.assert_close(blurred, blur_with_kernels(x, kernel), rtol=0, atol=atol)
    assert torch.equal(blur_planes(x, own)[0], x[0]), "a sigma of 0 is the identity"


def test_takes_images_in_any_memory_order() -> None:
    x = images(torch.float32)
    kernel = gaussian_kernel(5, torch.tensor([1.0]))
    expected = blur_planes(x, kernel)
    last = x.to(memory_format=torch.channels_last)
    assert torch.equal(blur_planes(last, kernel), expected)
    assert torch.equal(
        blur_planes(x[1:3, :, :, 2:], kernel), blur_planes(x[1:3, :, :, 2:].contiguous(), kernel)
    )


def test_gradients_pass_where_they_are_wanted() -> None:
    x = images(torch.float64, 8, 8).requires_grad_()
    assert not can_blur(x)
    with torch.no_grad():
        assert can_blur(x)
    kernel = gaussian_kernel(3, torch.tensor([1.0], dtype=torch.float64))
    blur_with_kernels(x, kernel).sum().backward()
    # Each pixel's weights sum to 1 over the image, but for what reflection counts twice.
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(float(x.numel()), dtype=torch.float64))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # sizes are constants there
def test_a_recorded_graph_works_on_other_images() -> None:
    kernel = gaussian_kernel(5, torch.tensor([1.0]))
    first, second = images(torch.float32), images(torch.float32).flip(0)
    traced = torch.jit.trace(lambda x: blur_with_kernels(x, kernel), first)
    torch.testing.assert_close(traced(second), blur_with_kernels(second, kernel))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_numbers_are_left_to_torch(dtype: torch.dtype) -> None:
    assert not can_blur(images(torch.float32).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_that_are_given_up_are_blurred_the_same(dtype: torch.dtype) -> None:
    kernel = gaussian_kernel(5, torch.tensor([0.0, 1.0, 0.0, 2.0])).to(dtype)
    x = images(torch.float32).to(dtype)
    expected = blur_with_kernels(x, kernel)
    assert torch.equal(blur_in_place(x.clone(), kernel), expected)
    turned = x.clone().to(memory_format=torch.channels_last)
    torch.testing.assert_close(blur_in_place(turned, kernel), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_high_pass_by_planes_is_what_the_blur_takes_away(dtype: torch.dtype) -> None:
    x = images(dtype)
    expected = x - gaussian_blur(x, 5, 1.5)
    assert torch.equal(high_pass(x, 5, 1.5), expected)
    for out in (torch.empty_like(x), x.clone()):
        assert high_pass(x, 5, 1.5, out=out) is out
        assert torch.equal(out, expected)
    itself = x.clone()
    assert torch.equal(high_pass(itself, 5, 1.5, out=itself), expected)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 3e-6), (torch.float64, 1e-14), (torch.bfloat16, 0)]
)
@pytest.mark.parametrize("blurred_first", [False, True])
def test_filters_at_once_change_roundings_only(
    blurred_first: bool, dtype: torch.dtype, atol: float
) -> None:
    """Plane by plane, and for bfloat16 one after the other; the first image is not blurred."""
    x = images(torch.float32).to(dtype)
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


def test_zeros_at_the_ends_of_a_kernel_change_nothing() -> None:
    x = images(torch.float64)
    narrow = gaussian_kernel(3, torch.tensor([0.5], dtype=torch.float64))
    wide = torch.nn.functional.pad(narrow, (4, 4))
    assert torch.equal(blur_planes(x, wide), blur_planes(x, narrow))


def test_each_of_both_filters_names_a_kernel_too_wide() -> None:
    x, own = images(torch.float32, 8, 8), gaussian_kernel(17, torch.ones(4))
    with pytest.raises(InputError, match="17 taps is too wide for 8 pixels"):
        blurred_high_pass(x, own, 3, 1.0)
    with pytest.raises(InputError, match="19 taps is too wide for 8 pixels"):
        blurred_high_pass(x, None, 19, 1.0)


@pytest.mark.usefixtures("without_opencv")
def test_without_opencv_a_high_pass_goes_where_it_is_wanted() -> None:
    x = images(torch.float32)
    expected = x - gaussian_blur(x, 5, 1.5)
    itself = x.clone()
    assert high_pass(itself, 5, 1.5, out=itself) is itself
    assert torch.equal(itself, expected)


def test_what_is_kept_of_a_fixed_kernel_serves_everywhere() -> None:
    """Made in inference mode, where tensors are no use for a gradient later on."""
    x = images(torch.float64, 8, 8)
    with torch.inference_mode():
        inside = gaussian_blur(normalise(x), 3, 0.9)
    wanted = x.clone().requires_grad_()
    blurred = gaussian_blur(normalise(wanted), 3, 0.9)
    blurred.square().sum().backward()
    assert wanted.grad is not None
    torch.testing.assert_close(inside, blurred.detach())
