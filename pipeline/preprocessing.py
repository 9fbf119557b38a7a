"""What a picture looks like to an encoder: normalisation and Gaussian filters.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.

A separable blur is two matrix products: the matrix of one axis holds the kernel and the reflected
border, `blurred = rows_HH @ x_HW @ columns_WW^T`, and one kernel per image costs no more than one
for all. The matrices are bands: the product is taken in strips of `STRIP` pixels, each with the
pixels that it sees, which leaves out most of the zeros (at 224 px and 13 taps it takes a third of
the time). On a CPU OpenCV does the same faster, where it is installed (`pipeline.cpu_blur`).
"""

from functools import lru_cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STRIP = 32
"""Pixels of an axis that are blurred at once."""
REFERENCE_VIEW_SIZE = 224
"""The view size, in pixels, at which the paper states its kernels, sigmas and boxes."""


def _per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    if type(like) is Tensor and like.device.type == "cpu" and not torch.compiler.is_compiling():
        return _known_channels(values, like.dtype)
    # Filled on the device: a tensor made from a list would be copied there, and the copy waits.
    return torch.stack([like.new_full((), value) for value in values])[:, None, None]


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # so that it may be used everywhere
def _known_channels(values: tuple[float, float, float], dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None, None]


def normalise(image01_BCHW: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Normalise with ImageNet's statistics: `(image - mean) / std`, per channel.

    Args:
        image01_BCHW: float images in [0, 1], three channels, RGB; any leading dimensions.
        out: where the normalised images go, which may be the images themselves.

    Returns:
        The normalised images, same shape and dtype.
    """
    mean_C11 = _per_channel(IMAGENET_MEAN, image01_BCHW)
    std_C11 = _per_channel(IMAGENET_STD, image01_BCHW)
    return torch.sub(image01_BCHW, mean_C11, out=out).div_(std_C11)


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


def _axis_matrix(kernel_BK: Tensor, length: int) -> Tensor:
    """The `[B, length, length]` matrices that blur `length` pixels, borders reflected."""
    radius = kernel_BK.shape[-1] // 2
    # Blurring every basis vector at once spells out the matrix. A product rather than a
    # convolution, which a GPU may compute in TF32: then a kernel would not sum to 1.
    basis = torch.eye(length, dtype=kernel_BK.dtype, device=kernel_BK.device)[:, None]
    windows = functional.pad(basis, (radius, radius), mode="reflect").unfold(-1, 2 * radius + 1, 1)
    responses = kernel_BK @ windows.reshape(length * length, -1).mT
    return responses.view(-1, length, length).mT


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
    if _opencv_can_blur(x_BCHW):
        from pipeline.cpu_blur import blur_planes

        return blur_planes(x_BCHW, kernel_BK)
    height, width = x_BCHW.shape[-2:]
    radius = kernel_BK.shape[-1] // 2
    with torch.autocast(device_type=x_BCHW.device.type, enabled=False):
        rows_BHH = _axis_matrix(kernel_BK, height)
        columns_BWW = rows_BHH if width == height else _axis_matrix(kernel_BK, width)
        rows_B1HH, columns_B1WW = rows_BHH[:, None], columns_BWW[:, None].mT
        across_BCHW = torch.cat(
            [
                x_BCHW[..., seen] @ columns_B1WW[..., seen, strip]
                for strip, seen in _strips(width, radius)
            ],
            dim=-1,
        )
        return torch.cat(
            [
                rows_B1HH[..., strip, seen] @ across_BCHW[..., seen, :]
                for strip, seen in _strips(height, radius)
            ],
            dim=-2,
        )


def blur_in_place(x_BCHW: Tensor, kernel_BK: Tensor) -> Tensor:
    """`blur_with_kernels` of images that the caller gives up; they may be overwritten."""
    _check_width(kernel_BK, x_BCHW)
    if x_BCHW.is_contiguous() and _opencv_can_blur(x_BCHW):
        from pipeline.cpu_blur import blur_planes

        return blur_planes(x_BCHW, kernel_BK, out=x_BCHW)
    return blur_with_kernels(x_BCHW, kernel_BK)


def _opencv_can_blur(x_BCHW: Tensor) -> bool:
    if find_spec("cv2") is None:
        return False
    from pipeline.cpu_blur import can_blur

    return can_blur(x_BCHW)


def _check_width(kernel_BK: Tensor, x_BCHW: Tensor) -> None:
    taps, length = kernel_BK.shape[-1], min(x_BCHW.shape[-2:])
    if taps // 2 >= length:
        raise InputError(
            f"a kernel of {taps} taps is too wide for {length} pixels:"
            f" reflection needs at least {taps // 2 + 1}"
        )


def _strips(length: int, radius: int) -> list[tuple[slice, slice]]:
    """The strips of an axis, each with the pixels that its blurred ones are made of."""
    return [
        (slice(start, start + STRIP), slice(max(0, start - radius), start + STRIP + radius))
        for start in range(0, length, STRIP)
    ]


def _kernel_for(x_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """The kernel for all of these images, `[1, K]`."""
    if _opencv_can_blur(x_BCHW):
        return _known_kernel(kernel, sigma, x_BCHW.dtype)
    return gaussian_kernel(kernel, x_BCHW.new_full((1,), sigma))


@lru_cache(maxsize=32)
@torch.inference_mode(mode=False)
def _known_kernel(kernel: int, sigma: float, dtype: torch.dtype) -> Tensor:
    # To make it takes as long as to blur a view of 64 px with it.
    return gaussian_kernel(kernel, torch.full((1,), sigma, dtype=dtype))


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
    return blur_with_kernels(x_BCHW, _kernel_for(x_BCHW, kernel, sigma))


def high_pass(x_BCHW: Tensor, kernel: int, sigma: float, *, out: Tensor | None = None) -> Tensor:
    """What a Gaussian blur takes away: `x - gaussian_blur(x)`.

    The paper (arXiv 2309.12757, section 3.2) filters normalised views with kernel 11, sigma 5 at
    224 px; a backbone pretrained so needs the same filter wherever it is used.

    Args:
        x_BCHW: float images of any range.
        kernel: taps of the kernel, odd, in pixels.
        sigma: standard deviation in pixels.
        out: where the filtered images go, which may be the images themselves.

    Returns:
        The filtered images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = _kernel_for(x_BCHW, kernel, sigma)
    _check_width(kernel_1K, x_BCHW)
    if _opencv_can_blur(x_BCHW):
        from pipeline.cpu_blur import high_pass_planes

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
    """Images blurred each with its own kernel, and of these, after `normalise`, the `high_pass`.

    Up to rounding, that is: on a CPU the mean, which no high-pass lets through, is not taken away
    first, and each plane goes through both filters while it is at hand.

    Args:
        image01_BCHW: float images in [0, 1], which the caller gives up: they may be overwritten.
        blur_BK: the images' kernels, K odd, same dtype. None: they are not blurred.
        kernel: taps of the high-pass filter's kernel, odd, in pixels.
        sigma: its standard deviation in pixels.
        out: where the filtered images go, which may be the images themselves.

    Returns:
        The blurred and the filtered images, same shape and dtype.

    Raises:
        InputError: an even kernel, or one too wide for the image.
    """
    kernel_1K = _kernel_for(image01_BCHW, kernel, sigma)
    for taps in (kernel_1K, *(() if blur_BK is None else (blur_BK,))):
        _check_width(taps, image01_BCHW)
    if _opencv_can_blur(image01_BCHW) and (blur_BK is None or image01_BCHW.is_contiguous()):
        from pipeline.cpu_blur import high_pass_planes

        gains = [1.0 / std for std in IMAGENET_STD]
        filtered_BCHW = high_pass_planes(
            image01_BCHW, kernel_1K, blur_BK=blur_BK, gains=gains, out=out
        )
        return image01_BCHW, filtered_BCHW
    blurred_BCHW = image01_BCHW if blur_BK is None else blur_in_place(image01_BCHW, blur_BK)
    return blurred_BCHW, high_pass(normalise(blurred_BCHW, out=out), kernel, sigma, out=out)


def scaled_kernel(kernel_at_224: int, sigma_at_224: float, view_size: int) -> tuple[int, float]:
    """Scale a Gaussian stated for 224 px views to another view size.

    Args:
        kernel_at_224: taps at 224 px, odd.
        sigma_at_224: standard deviation in pixels at 224 px.
        view_size: side of the view in pixels.

    Returns:
        The nearest odd number of taps, at least 3 (1 would filter nothing), and the sigma.
    """
    scale = view_size / REFERENCE_VIEW_SIZE
    radius = round((kernel_at_224 * scale - 1) / 2)
    return 2 * max(radius, 1) + 1, sigma_at_224 * scale
