"""What goes into a masked patch.

Shapes: `B` batch, `C` channels, `H W` pixels.

A fill is one entry of `FILLS`: how an unmasked view looks to the encoder (`prepare`) and what its
masked pixels become (`fill`). Kernels and sigmas are the paper's at 224 px (arXiv 2309.12757,
section 3.2) and scale with the view.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.preprocessing import gaussian_blur, high_pass, normalise, scaled_kernel
from training.draws import View, gaussian_noise

STRONG_BLUR_AT_224 = (31, 10.0)
"""Kernel and sigma, in pixels, of the blurred fill."""
HIGH_PASS_AT_224 = (11, 5.0)
"""Kernel and sigma, in pixels, of the high-pass filter."""
NOISE_STD = {View.QUERY: 0.18, View.NEGATIVE: 0.14}
"""Standard deviation of the noise in high-passed views; a key is never masked."""


def mean_fill(base_BCHW: Tensor, mask_BCHW: Tensor) -> Tensor:
    """Put the view's own mean, per channel, into its masked pixels."""
    return torch.where(mask_BCHW, base_BCHW.mean(dim=(2, 3), keepdim=True), base_BCHW)


def strong_blur(image01_BCHW: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur images in [0, 1], then normalise them."""
    return normalise(gaussian_blur(image01_BCHW, kernel, sigma))


def noise_fill(
    base_BCHW: Tensor, mask_BCHW: Tensor, noise_seeds_B: Tensor, view: int, std: float
) -> Tensor:
    """Put Gaussian noise of mean 0 into the masked pixels, of each sample's own seed."""
    channels, height, width = base_BCHW.shape[1:]
    noise = gaussian_noise(noise_seeds_B, view, (channels, height, width)).mul_(std)
    return torch.where(mask_BCHW, noise.to(base_BCHW.dtype), base_BCHW)


class Prepare(Protocol):
    """Turns images into unmasked views, as the encoder sees them."""

    def __call__(self, image01_BCHW: Tensor, *, view_size: int) -> Tensor:
        """Prepare `[B, C, H, W]` float images in [0, 1] for the encoder; same shape and dtype."""


class Apply(Protocol):
    """Fills the masked pixels of prepared views."""

    def __call__(
        self,
        base_BCHW: Tensor,
        image01_BCHW: Tensor,
        mask_BCHW: Tensor,
        *,
        noise_seeds_B: Tensor,
        view: int,
        view_size: int,
    ) -> Tensor:
        """Fill `base_BCHW` where `mask_BCHW` (bool, one channel or all) is True.

        Args:
            base_BCHW: what `prepare` returned.
            image01_BCHW: the images in [0, 1] that it was given.
            mask_BCHW: True where masked.
            noise_seeds_B: the samples' seeds, int64, on the images' device.
            view: number of the view (`training.draws.View`).
            view_size: side of the view in pixels.

        Returns:
            The masked views, shape and dtype of `base_BCHW`.
        """


@dataclass(frozen=True, kw_only=True)
class Fill:
    """One way to fill masked patches."""

    high_pass: bool
    """Whether views are high-passed, which gives masks their three shapes and a key its filter."""
    prepare: Prepare
    """Unmasked views, as the encoder sees them."""
    fill: Apply
    """Prepared views with their masked pixels filled."""


def _normalised(image01_BCHW: Tensor, *, view_size: int) -> Tensor:
    return normalise(image01_BCHW)


def _high_passed(image01_BCHW: Tensor, *, view_size: int) -> Tensor:
    return high_pass(normalise(image01_BCHW), *scaled_kernel(*HIGH_PASS_AT_224, view_size))


def _fill_mean(
    base_BCHW: Tensor,
    image01_BCHW: Tensor,
    mask_BCHW: Tensor,
    *,
    noise_seeds_B: Tensor,
    view: int,
    view_size: int,
) -> Tensor:
    return mean_fill(base_BCHW, mask_BCHW)


def _fill_blur(
    base_BCHW: Tensor,
    image01_BCHW: Tensor,
    mask_BCHW: Tensor,
    *,
    noise_seeds_B: Tensor,
    view: int,
    view_size: int,
) -> Tensor:
    blurred = strong_blur(image01_BCHW, *scaled_kernel(*STRONG_BLUR_AT_224, view_size))
    return torch.where(mask_BCHW, blurred, base_BCHW)


def _fill_noise(
    base_BCHW: Tensor,
    image01_BCHW: Tensor,
    mask_BCHW: Tensor,
    *,
    noise_seeds_B: Tensor,
    view: int,
    view_size: int,
) -> Tensor:
    return noise_fill(base_BCHW, mask_BCHW, noise_seeds_B, view, NOISE_STD[View(view)])


FILLS: dict[str, Fill] = {
    "mean": Fill(high_pass=False, prepare=_normalised, fill=_fill_mean),
    "blur": Fill(high_pass=False, prepare=_normalised, fill=_fill_blur),
    "high_pass": Fill(high_pass=True, prepare=_high_passed, fill=_fill_noise),
}
"""The fills by name. A new one is a line here."""


def fill_named(name: str) -> Fill:
    """Look a fill up by its name.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    if name not in FILLS:
        raise InputError(f"unknown fill {name!r}: choose from {', '.join(FILLS)}")
    return FILLS[name]
