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
    for image, kernel, result in zip(images, kernels, results, strict=True):
        blur_image(image, kernel, image if out is x_BCHW else result)
    return blurred_BCHW


def blur_image(
    image_CHW: NDArray[np.floating], kernel_K: NDArray[np.floating], out_CHW: NDArray[np.floating]
) -> None:
    """Blur one image's planes; zeros at the ends of its kernel cost nothing.

    Args:
        image_CHW: float32 or float64.
        kernel_K: K odd, symmetric, same dtype.
        out_CHW: where the blurred image goes, which may be the image itself.
    """
    zeros = np.flatnonzero(kernel_K)[0]
    kernel = kernel_K[zeros : len(kernel_K) - zeros]
    if len(kernel) == 1:  # the identity
        if out_CHW is not image_CHW:
            np.copyto(out_CHW, image_CHW)
        return
    for plane, blurred in zip(image_CHW, out_CHW, strict=True):
        cv2.sepFilter2D(plane, -1, kernel, kernel, dst=blurred, borderType=cv2.BORDER_REFLECT_101)


def high_pass_planes(
    x_BCHW: Tensor,
    kernel_1K: Tensor,
    *,
    gains: Sequence[float] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """What a blur with one kernel for all takes away, plane by plane, while a plane is at hand.

    Args:
        x_BCHW: images for which `can_blur`.
        kernel_1K: `[1, K]`, K odd, same dtype.
        gains: what each channel is multiplied by. None: 1.
        out: where the filtered images go, which may be `x_BCHW` itself. None: a new tensor.

    Returns:
        The images less their blurred selves, times their gains.
    """
    filtered_BCHW = torch.empty(x_BCHW.shape, dtype=x_BCHW.dtype) if out is None else out
    images, results = x_BCHW.detach().numpy(), filtered_BCHW.detach().numpy()
    kernel = kernel_1K[0].detach().numpy()
    by_channel = [(gain, -gain * kernel) for gain in gains or (1.0,) * images.shape[1]]
    minus_blurred = np.empty(images.shape[2:], dtype=images.dtype)
    for image, result in zip(images, results, strict=True):
        for (gain, row), plane, filtered in zip(by_channel, image, result, strict=True):
            cv2.sepFilter2D(
                plane, -1, row, kernel, dst=minus_blurred, borderType=cv2.BORDER_REFLECT_101
            )
            cv2.scaleAdd(plane, gain, minus_blurred, dst=filtered)
    return filtered_BCHW
