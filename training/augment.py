"""MoCo v2's colour augmentation, batched on the device.

Shapes: `B` batch, `H W` pixels, `K` taps of a kernel. Colours are RGB in [0, 1].

Brightness, contrast, saturation, hue and grey are linear in a pixel's colour x and in the image's
mean colour m, so whatever their order, together they are `M x + P m` with two 3 x 3 matrices that
follow from the drawn numbers alone. They are composed on the CPU; the device takes one mean, one
product and one clamp, then blurs each image with its own kernel (no blur is the kernel (0, 1, 0)).

Departures from torchvision's ColorJitter, for speed: hue is a rotation in YIQ, which keeps the luma
(torchvision shifts the hue of HSV, which keeps the largest channel); values are clamped to [0, 1]
once at the end, not after each operation, so contrast takes the mean of unclamped colours.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import InputError
from pipeline.preprocessing import REFERENCE_VIEW_SIZE, blur_with_kernels, gaussian_kernel
from training.draws import Stream, uniforms

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
"""torchvision's (ITU-R BT.601 luma; they sum to 0.9999 there too)."""
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_BLUR_REACH = 3.0
"""Radius of the blur's kernel, in multiples of the largest sigma: 99.7 % of the Gaussian."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges and probabilities of the colour augmentation; the defaults are MoCo v2's."""

    brightness: float = 0.4
    """The factor is uniform in 1 +- this."""
    contrast: float = 0.4
    """The factor is uniform in 1 +- this."""
    saturation: float = 0.4
    """The factor is uniform in 1 +- this."""
    hue: float = 0.1
    """The shift is uniform in +- this, in turns."""
    jitter_probability: float = 0.8
    """How often the four above are applied, in random order."""
    grey_probability: float = 0.2
    """How often a view becomes grey."""
    blur_probability: float = 0.5
    """How often a view is blurred."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's sigma in pixels."""
    scale_blur: bool = True
    """Whether blur_sigma is for 224 px and scales with the view, or is meant as it stands."""

    def __post_init__(self) -> None:
        limits = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5}
        limits |= dict.fromkeys(("jitter_probability", "grey_probability", "blur_probability"), 1.0)
        for name, limit in limits.items():
            if not 0.0 <= getattr(self, name) <= limit:
                raise InputError(f"{name} is {getattr(self, name)}: wanted 0 to {limit}")
        low, high = self.blur_sigma
        if not 0.0 < low <= high < math.inf:
            raise InputError(f"blur_sigma is {low} to {high}: wanted 0 < low <= high")


class ColourDraws(NamedTuple):
    """What decides the colours of one view of each sample: float32, drawn on the CPU."""

    matrix_B33: Tensor
    """M of `M x + P m`: what happens to each pixel's colour."""
    mean_matrix_B33: Tensor
    """P of `M x + P m`: what the image's mean colour adds to every pixel."""
    kernel_BK: Tensor
    """The kernel that blurs each image, K the same for all."""


def compose_colours(
    brightness_B: NDArray[np.float64],
    contrast_B: NDArray[np.float64],
    saturation_B: NDArray[np.float64],
    hue_B: NDArray[np.float64],
    order_B4: NDArray[np.int64],
    grey_B: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compose the four operations of the jitter, in each image's order, and grey after them.

    brightness: x <- f x. contrast: x <- f x + (1 - f) grey(m). saturation: x <- f x + (1 - f)
    grey(x). hue: rotation of the colour by 2 pi h in the IQ plane. Each is x <- A x + C m; the mean
    colour then is (A + C) m.

    Args:
        brightness_B: factors >= 0; 1 changes nothing.
        contrast_B: factors >= 0; 1 changes nothing.
        saturation_B: factors >= 0; 1 changes nothing, 0 is grey.
        hue_B: shifts in turns; 0 changes nothing, positive goes from red to green.
        order_B4: the order of the four, numbered as they stand here, a permutation per image.
        grey_B: which images become grey.

    Returns:
        The matrices M and P of `M x + P m`, `[B, 3, 3]` each.
    """
    batch = len(brightness_B)
    identity = np.broadcast_to(np.eye(3), (batch, 3, 3))
    grey = np.broadcast_to(np.array(GREY_WEIGHTS), (3, 3))
    angle_B = -2.0 * np.pi * hue_B
    rotation = np.zeros((batch, 3, 3))
    rotation[:, 0, 0] = 1.0
    rotation[:, 1, 1] = rotation[:, 2, 2] = np.cos(angle_B)
    rotation[:, 2, 1] = np.sin(angle_B)
    rotation[:, 1, 2] = -rotation[:, 2, 1]

    def times(factor_B: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        return factor_B[:, None, None] * matrix

    operations = np.stack(
        (
            times(brightness_B, identity),
            times(contrast_B, identity),
            times(saturation_B, identity) + times(1.0 - saturation_B, grey),
            np.linalg.inv(_RGB_TO_YIQ) @ rotation @ _RGB_TO_YIQ,
        ),
        axis=1,
    )
    from_mean = np.zeros_like(operations)
    from_mean[:, 1] = times(1.0 - contrast_B, grey)
    matrix, mean_matrix = identity, np.zeros((batch, 3, 3))
    rows = np.arange(batch)
    for place in range(4):
        chosen = order_B4[:, place]
        operation = operations[rows, chosen]
        added = from_mean[rows, chosen] @ (matrix + mean_matrix)
        matrix, mean_matrix = operation @ matrix, operation @ mean_matrix + added
    last = np.where(grey_B[:, None, None], grey, identity)
    return last @ matrix, last @ mean_matrix


def draw_colours(
    seeds_B: NDArray[np.uint64], *, view: int, config: AugmentConfig, view_size: int
) -> ColourDraws:
    """Draw the colours of one view of each sample.

    Args:
        seeds_B: the samples' seeds (`training.draws.sample_seeds`).
        view: number of the view (`training.draws.View`); a hard negative has its key's colours.
        config: ranges and probabilities.
        view_size: side of the view in pixels, which the blur scales with.

    Returns:
        The draws, as CPU tensors.
    """
    colour = uniforms(seeds_B, view, Stream.COLOUR, 10)
    jitter_B = colour[:, 0] < config.jitter_probability
    reach = np.array([config.brightness, config.contrast, config.saturation, config.hue])
    change_B4 = np.where(jitter_B[:, None], (2.0 * colour[:, 1:5] - 1.0) * reach, 0.0)
    matrix, mean_matrix = compose_colours(
        1.0 + change_B4[:, 0],
        1.0 + change_B4[:, 1],
        1.0 + change_B4[:, 2],
        change_B4[:, 3],
        np.argsort(colour[:, 5:9], axis=1, kind="stable"),
        colour[:, 9] < config.grey_probability,
    )
    scale = view_size / REFERENCE_VIEW_SIZE if config.scale_blur else 1.0
    low, high = (scale * sigma for sigma in config.blur_sigma)
    blur = uniforms(seeds_B, view, Stream.BLUR, 2)
    sigma_B = np.where(blur[:, 0] < config.blur_probability, low + (high - low) * blur[:, 1], 0.0)
    kernel_BK = gaussian_kernel(2 * math.ceil(_BLUR_REACH * high) + 1, torch.from_numpy(sigma_B))
    return ColourDraws(
        matrix_B33=torch.from_numpy(matrix).float(),
        mean_matrix_B33=torch.from_numpy(mean_matrix).float(),
        kernel_BK=kernel_BK.float(),
    )


def apply_colours(image01_B3HW: Tensor, matrix_B33: Tensor, mean_matrix_B33: Tensor) -> Tensor:
    """Map every pixel x of an image with mean colour m to `M x + P m`, clamped to [0, 1].

    Args:
        image01_B3HW: float images in [0, 1].
        matrix_B33: M, same dtype.
        mean_matrix_B33: P, same dtype.

    Returns:
        The images in [0, 1], same shape and dtype.
    """
    pixels = image01_B3HW.flatten(2)
    with torch.autocast(device_type=pixels.device.type, enabled=False):
        offset = mean_matrix_B33 @ pixels.mean(dim=2, keepdim=True)
        coloured = torch.baddbmm(offset, matrix_B33, pixels)
    return coloured.clamp_(0.0, 1.0).view_as(image01_B3HW)


def augment_colours(image01_BCHW: Tensor, draws: ColourDraws) -> Tensor:
    """Apply drawn colours and blur to a batch.

    Args:
        image01_BCHW: float32 RGB images in [0, 1].
        draws: what `draw_colours` drew, on the images' device.

    Returns:
        The augmented images in [0, 1], same shape.
    """
    coloured = apply_colours(image01_BCHW, draws.matrix_B33, draws.mean_matrix_B33)
    return blur_with_kernels(coloured, draws.kernel_BK)
