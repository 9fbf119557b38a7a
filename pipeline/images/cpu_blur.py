"""A separable blur on a CPU, by OpenCV: a third to a half of the time of the matrix products.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def can_blur(x_BCHW: Tensor) -> bool:
    """Whether OpenCV may take these images: plain numbers on a CPU.

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
    """Blur each image with its own kernel, or all with one; borders reflected.

    Args:
        x_BCHW: images for which `can_blur`.
        kernel_BK: `[B, K]` or `[1, K]`, K odd, same dtype.
        out: where the blurred images go, which may be `x_BCHW` itself: then an image whose kernel
            is the identity costs nothing. None: a new tensor.

    Returns:
        The blurred images.
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
    """What a blur with one kernel for all takes away, plane by plane, while a plane is at hand.

    Args:
        x_BCHW: images for which `can_blur`; contiguous, if they are to be blurred.
        kernel_1K: `[1, K]`, K odd, same dtype.
        blur_BK: what blurs each image first, in its own place. None: nothing.
        gains: what each channel is multiplied by. None: 1.
        out: where the filtered images go, which may be `x_BCHW` itself. None: a new tensor.

    Returns:
        The images less their blurred selves, times their gains.
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
