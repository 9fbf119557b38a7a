"""Gaussian blurs, the high-pass and the normalisation, as plain functions of tensors.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.

A separable blur is two matrix products: the matrix of one axis holds the kernel and the reflected
border, `blurred = rows_HH @ x_HW @ columns_WW^T`, and one kernel per image costs no more than one
for all. The matrices are bands: the product is taken in strips of `STRIP` pixels, each with the
pixels that it sees, which leaves out most of the zeros (at 224 px and 13 taps it takes a third of
the time). On a CPU OpenCV does the same in a third to a half of that time.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.core.errors import InputError
from pipeline.images.pixel_format import IMAGENET, Normalisation

STRIP = 32
"""Pixels of an axis that are blurred at once."""
REFERENCE_VIEW_SIZE = 224
"""The view size, in pixels, at which the paper states its kernels, sigmas and boxes."""

Floats = NDArray[np.floating]


def gaussian_kernel(kernel: int, sigma_B: Tensor) -> Tensor:
    """Sampled Gaussians that sum to 1: `exp(-i^2 / (2 sigma^2))`, |i| <= (kernel - 1) / 2.

    Returns kernels of `kernel` taps, `sigma_B.shape + (kernel,)`; sigmas are in pixels, and 0 gives
    the identity. Raises InputError for an even kernel, which would shift the image by half a pixel.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"a Gaussian kernel of {kernel} taps has no centre: use an odd number")
    offset_K = torch.arange(kernel, dtype=sigma_B.dtype, device=sigma_B.device) - kernel // 2
    # Below a sigma of 0.01 every tap but the centre is 0 in float64 too, so this is the identity.
    weight_BK = torch.exp(-0.5 * (offset_K / sigma_B.clamp(min=0.01)[..., None]) ** 2)
    return weight_BK / weight_BK.sum(dim=-1, keepdim=True)


def scaled_kernel(kernel_at_224: int, sigma_at_224: float, view_size: int) -> tuple[int, float]:
    """Scale taps and sigma of a Gaussian that is stated for 224 px views to another view size.

    The taps are the nearest odd number, at least 3: 1 would filter nothing.
    """
    scale = view_size / REFERENCE_VIEW_SIZE
    radius = round((kernel_at_224 * scale - 1) / 2)
    return 2 * max(radius, 1) + 1, sigma_at_224 * scale


def normalise(
    image01_BCHW: Tensor, *, out: Tensor | None = None, normalisation: Normalisation = IMAGENET
) -> Tensor:
    """Subtract the mean of each channel from images [..., C, H, W] in [0, 1]; divide by its std.

    `out` receives the result, and may be the images themselves.
    """
    mean_C11 = _per_channel(normalisation.mean, image01_BCHW)
    std_C11 = _per_channel(normalisation.std, image01_BCHW)
    return torch.sub(image01_BCHW, mean_C11, out=out).div_(std_C11)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    if type(like) is Tensor and like.device.type == "cpu" and not torch.compiler.is_compiling():
        return _known_channels(values, like.dtype)
    # Filled on the device: a tensor made from a list would be copied there, and the copy waits.
    return torch.stack([like.new_full((), value) for value in values])[:, None, None]


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # so that it may be used everywhere
def _known_channels(values: tuple[float, ...], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None, None]


def gaussian_blur(x_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur float images by one kernel of odd taps, both in pixels; see `blur_with_kernels`."""
    return blur_with_kernels(x_BCHW, _one_kernel(x_BCHW, kernel, sigma))


def blur_with_kernels(x_BCHW: Tensor, kernel_BK: Tensor) -> Tensor:
    """Blur each image with its own symmetric separable kernel, borders reflected.

    Args:
        x_BCHW: float images of any range.
        kernel_BK: one kernel per image, `[B, K]`, or one for all, `[1, K]`; K odd; same dtype.

    Returns:
        The blurred images, same shape and dtype. Computed in that dtype, under autocast too.

    Raises:
        InputError: a kernel too wide for the image.
    """
    _check_width(kernel_BK, x_BCHW)
    if opencv_can_blur(x_BCHW):
        return _blur_planes(x_BCHW, kernel_BK, torch.empty(x_BCHW.shape, dtype=x_BCHW.dtype))
    height, width = x_BCHW.shape[-2:]
    radius = kernel_BK.shape[-1] // 2
    with torch.autocast(device_type=x_BCHW.device.type, enabled=False):
        rows_BHH = _axis_matrix(kernel_BK, height)
        columns_BWW = rows_BHH if width == height else _axis_matrix(kernel_BK, width)
        rows_B1HH, columns_B1WW = rows_BHH[:, None], columns_BWW[:, None].mT
        across = [
            x_BCHW[..., seen] @ columns_B1WW[..., seen, strip]
            for strip, seen in _strips(width, radius)
        ]
        across_BCHW = torch.cat(across, dim=-1)
        down = [
            rows_B1HH[..., strip, seen] @ across_BCHW[..., seen, :]
            for strip, seen in _strips(height, radius)
        ]
        return torch.cat(down, dim=-2)


def blur_in_place(x_BCHW: Tensor, kernel_BK: Tensor) -> Tensor:
    """`blur_with_kernels` of images that the caller gives up: they may be overwritten."""
    if x_BCHW.is_contiguous() and opencv_can_blur(x_BCHW):
        _check_width(kernel_BK, x_BCHW)
        return _blur_planes(x_BCHW, kernel_BK, x_BCHW)
    return blur_with_kernels(x_BCHW, kernel_BK)


def high_pass(x_BCHW: Tensor, kernel: int, sigma: float, *, out: Tensor | None = None) -> Tensor:
    """What a Gaussian blur takes away: `x - gaussian_blur(x)`.

    The paper (arXiv 2309.12757, section 3.2) filters normalised views with kernel 11, sigma 5 at
    224 px; a backbone pretrained so needs the same filter wherever it is used.

    Args:
        x_BCHW: float images of any range.
        kernel: taps, odd, in pixels.
        sigma: standard deviation in pixels.
        out: receives the filtered images, and may be the images themselves.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = _one_kernel(x_BCHW, kernel, sigma)
    if opencv_can_blur(x_BCHW):
        return _high_pass_planes(x_BCHW, kernel_1K, None, (1.0,) * x_BCHW.shape[1], out)
    blurred_BCHW = blur_with_kernels(x_BCHW, kernel_1K)
    return torch.sub(x_BCHW, blurred_BCHW, out=blurred_BCHW if out is None else out)


def blurred_high_pass(
    image01_BCHW: Tensor,
    blur_BK: Tensor | None,
    kernel: int,
    sigma: float,
    *,
    out: Tensor | None = None,
    normalisation: Normalisation = IMAGENET,
) -> tuple[Tensor, Tensor]:
    """Blur images each with its own kernel; `normalise` and `high_pass` the blurred images.

    On a CPU each plane goes through both filters at once, without the subtraction of the mean,
    which no high-pass lets through: the result differs by rounding.

    Args:
        image01_BCHW: float images in [0, 1], which the caller gives up: they may be overwritten.
        blur_BK: the images' kernels, K odd, same dtype. None: they are not blurred.
        kernel: taps of the high-pass, odd, in pixels.
        sigma: its standard deviation in pixels.
        out: receives the filtered images; if it is `image01_BCHW`, the blurred ones are lost.
        normalisation: of the images.

    Returns:
        The blurred and the filtered images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = _one_kernel(image01_BCHW, kernel, sigma)
    if opencv_can_blur(image01_BCHW) and (blur_BK is None or image01_BCHW.is_contiguous()):
        if blur_BK is not None:
            _check_width(blur_BK, image01_BCHW)
        gains = tuple(1.0 / std for std in normalisation.std)
        return image01_BCHW, _high_pass_planes(image01_BCHW, kernel_1K, blur_BK, gains, out)
    blurred_BCHW = image01_BCHW if blur_BK is None else blur_in_place(image01_BCHW, blur_BK)
    x_BCHW = normalise(blurred_BCHW, out=out, normalisation=normalisation)
    return blurred_BCHW, high_pass(x_BCHW, kernel, sigma, out=out)


def _one_kernel(x_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """One kernel for all of these images, `[1, K]`."""
    if opencv_can_blur(x_BCHW):
        kernel_1K = _known_kernel(kernel, sigma, x_BCHW.dtype)
    else:
        kernel_1K = gaussian_kernel(kernel, x_BCHW.new_full((1,), sigma))
    _check_width(kernel_1K, x_BCHW)
    return kernel_1K


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _known_kernel(kernel: int, sigma: float, dtype: torch.dtype) -> Tensor:
    # To make it takes as long as to blur a view of 64 px with it.
    return gaussian_kernel(kernel, torch.full((1,), sigma, dtype=dtype))


def _check_width(kernel_BK: Tensor, x_BCHW: Tensor) -> None:
    taps, length = kernel_BK.shape[-1], min(x_BCHW.shape[-2:])
    if taps // 2 >= length:
        raise InputError(
            f"a kernel of {taps} taps is too wide for {length} pixels:"
            f" reflection needs at least {taps // 2 + 1}"
        )


def _axis_matrix(kernel_BK: Tensor, length: int) -> Tensor:
    """The `[B, length, length]` matrices that blur `length` pixels, borders reflected."""
    radius = kernel_BK.shape[-1] // 2
    # Blurring every basis vector at once spells out the matrix. A product rather than a
    # convolution, which a GPU may compute in TF32: then a kernel would not sum to 1.
    basis = torch.eye(length, dtype=kernel_BK.dtype, device=kernel_BK.device)[:, None]
    windows = functional.pad(basis, (radius, radius), mode="reflect").unfold(-1, 2 * radius + 1, 1)
    responses = kernel_BK @ windows.reshape(length * length, -1).mT
    return responses.view(-1, length, length).mT


def _strips(length: int, radius: int) -> list[tuple[slice, slice]]:
    """The strips of an axis, each with the pixels that its blurred ones are made of."""
    return [
        (slice(start, start + STRIP), slice(max(0, start - radius), start + STRIP + radius))
        for start in range(0, length, STRIP)
    ]


def opencv_can_blur(x_BCHW: Tensor) -> bool:
    """Whether OpenCV may blur these images: on a CPU, without gradient, not recorded as a graph."""
    return (
        type(x_BCHW) is Tensor
        and x_BCHW.device.type == "cpu"
        and x_BCHW.dtype in (torch.float32, torch.float64)
        and not (x_BCHW.requires_grad and torch.is_grad_enabled())
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
    )


def _blur_planes(x_BCHW: Tensor, kernel_BK: Tensor, out: Tensor) -> Tensor:
    """Blur by OpenCV into `out`, which may be `x_BCHW`: then the identity costs nothing."""
    images, results = x_BCHW.detach().numpy(), out.detach().numpy()
    kernels = _kernels(kernel_BK, len(images))
    for image, kernel, result in zip(images, kernels, results, strict=True):
        if len(kernel) > 1:
            for plane, blurred in zip(image, result, strict=True):
                _filter(plane, kernel, kernel, blurred)
        elif out is not x_BCHW:
            np.copyto(result, image)
    return out


def _high_pass_planes(
    x_BCHW: Tensor,
    kernel_1K: Tensor,
    blur_BK: Tensor | None,
    gains: tuple[float, ...],
    out: Tensor | None,
) -> Tensor:
    """Blur contiguous images in place, if there are kernels; high-pass them, times a gain each."""
    filtered_BCHW = torch.empty(x_BCHW.shape, dtype=x_BCHW.dtype) if out is None else out
    images, results = x_BCHW.detach().numpy(), filtered_BCHW.detach().numpy()
    blurs = [np.ones(1)] * len(images) if blur_BK is None else _kernels(blur_BK, len(images))
    kernel = kernel_1K[0].detach().numpy()
    by_channel = [(gain, -gain * kernel) for gain in gains]
    minus_blurred = np.empty(images.shape[2:], dtype=images.dtype)
    for image, blur, result in zip(images, blurs, results, strict=True):
        for (gain, row), plane, filtered in zip(by_channel, image, result, strict=True):
            if len(blur) > 1:
                _filter(plane, blur, blur, plane)
            _filter(plane, row, kernel, minus_blurred)
            cv2.scaleAdd(plane, gain, minus_blurred, dst=filtered)
    return filtered_BCHW


def _kernels(kernel_BK: Tensor, num: int) -> list[Floats]:
    """A kernel for each image, without the zeros at its ends: one tap is the identity."""
    kernels = kernel_BK.detach().expand(num, -1).contiguous().numpy()
    zeros = [np.flatnonzero(kernel)[0] for kernel in kernels]
    return [kernel[z : len(kernel) - z] for kernel, z in zip(kernels, zeros, strict=True)]


def _filter(plane_HW: Floats, row_K: Floats, column_K: Floats, out_HW: Floats) -> None:
    cv2.sepFilter2D(plane_HW, -1, row_K, column_K, dst=out_HW, borderType=cv2.BORDER_REFLECT_101)
