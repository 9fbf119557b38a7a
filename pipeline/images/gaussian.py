"""Gaussian blurs: one kernel for all images, or one for each.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.

A separable blur is two matrix products: the matrix of one axis holds the kernel and the reflected
border, `blurred = rows_HH @ x_HW @ columns_WW^T`, and one kernel per image costs no more than one
for all. The matrices are bands: the product is taken in strips of `STRIP` pixels, each with the
pixels that it sees, which leaves out most of the zeros (at 224 px and 13 taps it takes a third of
the time). On a CPU OpenCV does the same in a third to a half of that time (`blur_planes`,
`high_pass_planes`).
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.core.errors import InputError

STRIP = 32
"""Pixels of an axis that are blurred at once."""
REFERENCE_VIEW_SIZE = 224
"""The view size, in pixels, at which the paper states its kernels, sigmas and boxes."""


def gaussian_kernel(kernel: int, sigma_B: Tensor) -> Tensor:
    """Sampled Gaussians that sum to 1: `exp(-i^2 / (2 sigma^2))`, |i| <= (kernel - 1) / 2.

    Args:
        kernel: number of taps, odd, in pixels.
        sigma_B: standard deviations in pixels, float, any shape; 0 gives the identity.

    Returns:
        The kernels, `sigma_B.shape + (kernel,)`.

    Raises:
        InputError: an even kernel, which would shift the image by half a pixel.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise InputError(f"a Gaussian kernel of {kernel} taps has no centre: use an odd number")
    offset_K = torch.arange(kernel, dtype=sigma_B.dtype, device=sigma_B.device) - kernel // 2
    # Below a sigma of 0.01 every tap but the centre is 0 in float64 too, so this is the identity.
    weight_BK = torch.exp(-0.5 * (offset_K / sigma_B.clamp(min=0.01)[..., None]) ** 2)
    return weight_BK / weight_BK.sum(dim=-1, keepdim=True)


def scaled_kernel(kernel_at_224: int, sigma_at_224: float, view_size: int) -> tuple[int, float]:
    """Scale a Gaussian stated for 224 px views, taps and sigma, to another view size.

    Returns:
        The nearest odd number of taps, at least 3 (1 would filter nothing), and the sigma.
    """
    scale = view_size / REFERENCE_VIEW_SIZE
    radius = round((kernel_at_224 * scale - 1) / 2)
    return 2 * max(radius, 1) + 1, sigma_at_224 * scale


def gaussian_blur(x_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """Gaussian blur, separable, borders reflected (without repeating the edge).

    Args:
        x_BCHW: float images of any range.
        kernel: taps of the kernel, odd, in pixels.
        sigma: standard deviation in pixels.

    Returns:
        The blurred images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    return blur_with_kernels(x_BCHW, kernel_for(x_BCHW, kernel, sigma))


def kernel_for(x_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """One kernel for all of these images, `[1, K]`."""
    if opencv_can_blur(x_BCHW):
        return _known_kernel(kernel, sigma, x_BCHW.dtype)
    return gaussian_kernel(kernel, x_BCHW.new_full((1,), sigma))


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _known_kernel(kernel: int, sigma: float, dtype: torch.dtype) -> Tensor:
    # To make it takes as long as to blur a view of 64 px with it.
    return gaussian_kernel(kernel, torch.full((1,), sigma, dtype=dtype))


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
    check_width(kernel_BK, x_BCHW)
    if opencv_can_blur(x_BCHW):
        return blur_planes(x_BCHW, kernel_BK)
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
    """`blur_with_kernels` of images that the caller gives up; they may be overwritten."""
    if x_BCHW.is_contiguous() and opencv_can_blur(x_BCHW):
        check_width(kernel_BK, x_BCHW)
        return blur_planes(x_BCHW, kernel_BK, out=x_BCHW)
    return blur_with_kernels(x_BCHW, kernel_BK)


def check_width(kernel_BK: Tensor, x_BCHW: Tensor) -> None:
    """Raise `InputError` where a kernel is too wide for the images."""
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
    """Whether OpenCV may blur these images: plain numbers on a CPU.

    Not where a gradient is wanted, nor where a graph is recorded that is to work on other images.
    """
    return (
        type(x_BCHW) is Tensor
        and x_BCHW.device.type == "cpu"
        and x_BCHW.dtype in (torch.float32, torch.float64)
        and not (x_BCHW.requires_grad and torch.is_grad_enabled())
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
    )


def blur_planes(x_BCHW: Tensor, kernel_BK: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`blur_with_kernels` by OpenCV, plane by plane, for images for which `opencv_can_blur`.

    `out` may be the images themselves: then an image whose kernel is the identity costs nothing.
    """
    blurred_BCHW = torch.empty(x_BCHW.shape, dtype=x_BCHW.dtype) if out is None else out
    images, results = x_BCHW.detach().numpy(), blurred_BCHW.detach().numpy()
    kernels = kernel_BK.detach().expand(len(x_BCHW), -1).contiguous().numpy()
    for image, kernel, result in zip(images, map(_without_zeros, kernels), results, strict=True):
        if len(kernel) > 1:
            for plane, blurred in zip(image, result, strict=True):
                _filter(plane, kernel, kernel, blurred)
        elif out is not x_BCHW:  # the identity
            np.copyto(result, image)
    return blurred_BCHW


def high_pass_planes(
    x_BCHW: Tensor,
    kernel_1K: Tensor,
    *,
    blur_BK: Tensor | None = None,
    gains: Sequence[float] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The images less their blurred selves, times gains, by OpenCV plane by plane.

    Args:
        x_BCHW: images for which `opencv_can_blur`; contiguous, if they are to be blurred.
        kernel_1K: `[1, K]`, K odd, same dtype.
        blur_BK: kernels that blur the images first, in their own memory. None: no blur.
        gains: factor of each channel. None: 1.
        out: receives the filtered images, and may be `x_BCHW` itself. None: a new tensor.
    """
    filtered_BCHW = torch.empty(x_BCHW.shape, dtype=x_BCHW.dtype) if out is None else out
    images, results = x_BCHW.detach().numpy(), filtered_BCHW.detach().numpy()
    kernel = kernel_1K[0].detach().numpy()
    blurs: list[NDArray[np.floating]] = [np.ones(1)] * len(images)  # the identity
    if blur_BK is not None:
        blurs = [_without_zeros(blur) for blur in blur_BK.detach().numpy()]
    by_channel = [(gain, -gain * kernel) for gain in gains or (1.0,) * images.shape[1]]
    minus_blurred = np.empty(images.shape[2:], dtype=images.dtype)
    for image, blur, result in zip(images, blurs, results, strict=True):
        for (gain, row), plane, filtered in zip(by_channel, image, result, strict=True):
            if len(blur) > 1:
                _filter(plane, blur, blur, plane)
            _filter(plane, row, kernel, minus_blurred)
            cv2.scaleAdd(plane, gain, minus_blurred, dst=filtered)
    return filtered_BCHW


def _without_zeros(kernel_K: NDArray[np.floating]) -> NDArray[np.floating]:
    """A symmetric kernel without the zeros at its ends: one tap is the identity."""
    zeros = np.flatnonzero(kernel_K)[0]
    return kernel_K[zeros : len(kernel_K) - zeros]


def _filter(
    plane_HW: NDArray[np.floating],
    row_K: NDArray[np.floating],
    column_K: NDArray[np.floating],
    out_HW: NDArray[np.floating],
) -> None:
    border = cv2.BORDER_REFLECT_101
    cv2.sepFilter2D(plane_HW, -1, row_K, column_K, dst=out_HW, borderType=border)
