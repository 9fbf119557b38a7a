"""MoCo v2's colour augmentation, batched on the device.

Shapes: `B` batch, `H W` pixels, `K` taps of a kernel. Colours are RGB in [0, 1].

In YIQ coordinates (luma Y, colour I and Q) the whole chain has a closed form. With factors b, c, s
for brightness, contrast and saturation, a hue shift of h turns and the luma of the image's mean
colour Y_m:

    Y <- b (c Y + (1 - c) Y_m)        (I, Q) <- b c s R(-2 pi h) (I, Q)

and grey is s = 0. These operations commute, so torchvision's random order of the four makes no
difference. For a pixel's colour x and the image's mean colour m that is `M x + P m` with two 3 x 3
matrices, which follow from the drawn numbers alone. They are made on the CPU; the device computes
one mean, one product and one clamp, then blurs each image with its own kernel (the identity for an
image without blur).

Departures from torchvision's ColorJitter, for speed: hue is a rotation in YIQ, which keeps the luma
(torchvision shifts the hue of HSV, which keeps the largest channel); values are clamped to [0, 1]
once, after grey, and not after each operation.

Images of other than three channels have brightness and contrast only, each channel around its own
mean: M = b c 1 and P = b (1 - c) 1.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.images.filters import REFERENCE_VIEW_SIZE, blur_in_place, gaussian_kernel
from pipeline.images.pixel_format import RGB
from training.randomness.draws import Stream, Views, uniforms
from training.views.settings import AugmentConfig

_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)
_BLUR_SIGMAS = 3.0
"""Radius of the blur's kernel in sigmas: 99.7 % of the Gaussian."""
_NO_WEIGHT = 1e-9
"""Smaller taps change no colour in float32."""


class ColourDraws(NamedTuple):
    """M and P of `M x + P m`, and the kernel that blurs each image: float32, drawn on the CPU.

    The matrices are [C, C] of C channels.
    """

    matrix_B33: Tensor
    mean_matrix_B33: Tensor
    kernel_BK: Tensor


def compose_colours(
    brightness_B: NDArray[np.float64],
    contrast_B: NDArray[np.float64],
    saturation_B: NDArray[np.float64],
    hue_B: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """M and P, `[B, 3, 3]` each, of given factors: see the head of this file.

    Factors of 1 and a hue shift of 0 change nothing. Contrast 0 gives the mean luma, saturation 0
    gives grey; a positive shift, in turns, goes from red to green.
    """
    angle_B = -2.0 * np.pi * hue_B
    turn_B33 = np.zeros((len(hue_B), 3, 3))
    turn_B33[:, 0, 0] = 1.0
    turn_B33[:, 1, 1] = turn_B33[:, 2, 2] = saturation_B * np.cos(angle_B)
    turn_B33[:, 2, 1] = saturation_B * np.sin(angle_B)
    turn_B33[:, 1, 2] = -turn_B33[:, 2, 1]
    kept_B = brightness_B * contrast_B
    matrix_B33 = kept_B[:, None, None] * (_YIQ_TO_RGB @ turn_B33 @ _RGB_TO_YIQ)
    # Equal rows: the luma of the mean colour, for red, green and blue alike.
    luma_33 = np.broadcast_to(_RGB_TO_YIQ[0], (3, 3))
    return matrix_B33, (brightness_B - kept_B)[:, None, None] * luma_33


def draw_colours(
    seeds_B: NDArray[np.uint64],
    *,
    view: Views,
    config: AugmentConfig,
    view_size: int,
    channels: int = RGB,
) -> ColourDraws:
    """Draw the colours of one view of each sample.

    `view` is the number of the crop (`draws.view_number`), or of each sample's; the blur scales
    with `view_size`, in pixels.
    """
    colour = uniforms(seeds_B, view, Stream.COLOUR, 6)
    jitter_B = colour[:, 0] < config.jitter_probability
    strength = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    change_B4 = np.where(jitter_B[:, None], (2.0 * colour[:, 1:5] - 1.0) * strength, 0.0)
    grey_B = colour[:, 5] < config.grey_probability
    brightness_B, contrast_B = 1.0 + change_B4[:, 0], 1.0 + change_B4[:, 1]
    if channels == RGB:
        saturation_B = np.where(grey_B, 0.0, 1.0 + change_B4[:, 2])
        both = compose_colours(brightness_B, contrast_B, saturation_B, change_B4[:, 3])
    else:
        kept_B11, identity = (brightness_B * contrast_B)[:, None, None], np.eye(channels)
        both = kept_B11 * identity, (brightness_B[:, None, None] - kept_B11) * identity
    matrix_B33, mean_matrix_B33 = both
    scale = view_size / REFERENCE_VIEW_SIZE if config.scale_blur else 1.0
    low, high = (scale * sigma for sigma in config.blur_sigma)
    blur = uniforms(seeds_B, view, Stream.BLUR, 2)
    sigma_B = np.where(blur[:, 0] < config.blur_probability, low + (high - low) * blur[:, 1], 0.0)
    kernel_BK = gaussian_kernel(2 * math.ceil(_BLUR_SIGMAS * high) + 1, torch.from_numpy(sigma_B))
    return ColourDraws(
        matrix_B33=torch.from_numpy(matrix_B33).float(),
        mean_matrix_B33=torch.from_numpy(mean_matrix_B33).float(),
        # Denormal numbers would be many times slower; and zeros at the ends are left out on a CPU.
        kernel_BK=torch.where(kernel_BK < _NO_WEIGHT, 0.0, kernel_BK).float(),
    )


def apply_colours(image_B3HW: Tensor, matrix_B33: Tensor, mean_matrix_B33: Tensor) -> Tensor:
    """Map every pixel x of an image with mean colour m to `M x + P m`, clamped to [0, 1].

    The images are float in [0, 1], or uint8, whose levels are divided by 255; M and P are of the
    images' dtype, or float32. Returns images in [0, 1], float32 of uint8, else in their dtype.
    """
    with torch.autocast(device_type=image_B3HW.device.type, enabled=False):
        if image_B3HW.dtype == torch.uint8:
            matrix_B33, mean_matrix_B33 = matrix_B33 / 255, mean_matrix_B33 / 255
            if image_B3HW.device.type == "cpu" and image_B3HW.shape[1] == RGB:
                return _colour_levels(image_B3HW, matrix_B33, mean_matrix_B33)
            image_B3HW = image_B3HW.to(torch.float32, memory_format=torch.contiguous_format)
        pixels = image_B3HW.flatten(2)
        offset = mean_matrix_B33 @ pixels.mean(dim=2, keepdim=True)
        coloured = torch.baddbmm(offset, matrix_B33, pixels)
    return coloured.clamp_(0.0, 1.0).view_as(image_B3HW)


def _colour_levels(levels_B3HW: Tensor, matrix_B33: Tensor, mean_matrix_B33: Tensor) -> Tensor:
    """`apply_colours` of uint8 images on a CPU; OpenCV splits channels faster than torch."""
    batch, _, height, width = levels_B3HW.shape
    images = levels_B3HW.permute(0, 2, 3, 1).numpy()
    mean_B31 = torch.tensor([cv2.mean(image)[:3] for image in images])[..., None]
    # A fourth channel of ones adds the offset within the product, which saves a pass.
    matrix_B34 = torch.cat((matrix_B33, mean_matrix_B33 @ mean_B31), dim=2)
    floats_B4HW = torch.empty(batch, 4, height, width)
    floats_B4HW[:, 3] = 1.0
    planes = np.empty((3, height, width), dtype=np.uint8)
    for image, floats in zip(images, floats_B4HW.numpy(), strict=True):
        cv2.split(image, list(planes))
        np.copyto(floats[:3], planes)
    return torch.bmm(matrix_B34, floats_B4HW.flatten(2)).clamp_(0.0, 1.0).view(levels_B3HW.shape)


def augment_colours(image_B3HW: Tensor, draws: ColourDraws) -> Tensor:
    """Apply drawn colours and blur to a batch.

    The images are RGB, float32 in [0, 1] or uint8; the draws (`draw_colours`) are on their device.
    Returns float32 images in [0, 1].
    """
    coloured = apply_colours(image_B3HW, draws.matrix_B33, draws.mean_matrix_B33)
    return blur_in_place(coloured, draws.kernel_BK)
