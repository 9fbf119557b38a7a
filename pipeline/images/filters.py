"""How a picture looks to an encoder: normalised, and perhaps high-passed.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.
"""

from functools import lru_cache

import torch
from torch import Tensor

from pipeline.images.gaussian import (
    blur_in_place,
    blur_with_kernels,
    check_width,
    high_pass_planes,
    kernel_for,
    opencv_can_blur,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(image01_BCHW: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Normalise with ImageNet's statistics: `(image - mean) / std`, per channel.

    Args:
        image01_BCHW: float images in [0, 1], three channels, RGB; any leading dimensions.
        out: receives the normalised images, and may be the images themselves.

    Returns:
        The normalised images, same shape and dtype.
    """
    mean_C11 = _per_channel(IMAGENET_MEAN, image01_BCHW)
    std_C11 = _per_channel(IMAGENET_STD, image01_BCHW)
    return torch.sub(image01_BCHW, mean_C11, out=out).div_(std_C11)


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    if type(like) is Tensor and like.device.type == "cpu" and not torch.compiler.is_compiling():
        return _known_channels(values, like.dtype)
    # Filled on the device: a tensor made from a list would be copied there, and the copy waits.
    return torch.stack([like.new_full((), value) for value in values])[:, None, None]


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # so that it may be used everywhere
def _known_channels(values: tuple[float, float, float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None, None]


def high_pass(x_BCHW: Tensor, kernel: int, sigma: float, *, out: Tensor | None = None) -> Tensor:
    """What a Gaussian blur takes away: `x - gaussian_blur(x)`.

    The paper (arXiv 2309.12757, section 3.2) filters normalised views with kernel 11, sigma 5 at
    224 px; a backbone pretrained so needs the same filter wherever it is used.

    Args:
        x_BCHW: float images of any range.
        kernel: taps of the kernel, odd, in pixels.
        sigma: standard deviation in pixels.
        out: receives the filtered images, and may be the images themselves.

    Returns:
        The filtered images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = kernel_for(x_BCHW, kernel, sigma)
    check_width(kernel_1K, x_BCHW)
    if opencv_can_blur(x_BCHW):
        return high_pass_planes(x_BCHW, kernel_1K, out=out)
    blurred_BCHW = blur_with_kernels(x_BCHW, kernel_1K)
    return torch.sub(x_BCHW, blurred_BCHW, out=blurred_BCHW if out is None else out)


def blurred_high_pass(
    image01_BCHW: Tensor,
    blur_BK: Tensor | None,
    kernel: int,
    sigma: float,
    *,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Blur images each with its own kernel; `normalise` and `high_pass` the blurred images.

    On a CPU each plane goes through both filters at once, without the subtraction of the mean,
    which no high-pass lets through: the result differs by rounding.

    Args:
        image01_BCHW: float images in [0, 1], which the caller gives up: they may be overwritten.
        blur_BK: the images' kernels, K odd, same dtype. None: they are not blurred.
        kernel: taps of the high-pass filter's kernel, odd, in pixels.
        sigma: its standard deviation in pixels.
        out: receives the filtered images; if it is `image01_BCHW`, the blurred ones are lost.

    Returns:
        The blurred and the filtered images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = kernel_for(image01_BCHW, kernel, sigma)
    check_width(kernel_1K, image01_BCHW)
    if blur_BK is not None:
        check_width(blur_BK, image01_BCHW)
    if opencv_can_blur(image01_BCHW) and (blur_BK is None or image01_BCHW.is_contiguous()):
        gains = [1.0 / std for std in IMAGENET_STD]
        filtered_BCHW = high_pass_planes(
            image01_BCHW, kernel_1K, blur_BK=blur_BK, gains=gains, out=out
        )
        return image01_BCHW, filtered_BCHW
    blurred_BCHW = image01_BCHW if blur_BK is None else blur_in_place(image01_BCHW, blur_BK)
    return blurred_BCHW, high_pass(normalise(blurred_BCHW, out=out), kernel, sigma, out=out)
