"""What stands in a masked patch.

A fill is one entry of `FILLS`: how an unmasked view looks to the encoder (`prepare`) and what
stands in its masked pixels (`values`). Kernels and sigmas are the paper's at 224 px
(arXiv 2309.12757, section 3.2) and scale with the view.

Shapes: `B` batch, `C` channels, `H W` pixels, `K` taps of a kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import cv2
import torch
from torch import Tensor

from pipeline.core.errors import check
from pipeline.images.filters import (
    blur_in_place,
    blurred_high_pass,
    gaussian_blur,
    normalise,
    scaled_kernel,
)
from pipeline.images.pixel_format import IMAGENET, Normalisation
from training.randomness.draws import view_number
from training.randomness.noise import gaussian_noise

STRONG_BLUR_AT_224 = (31, 10.0)
"""Kernel and sigma, in pixels, of the blurred fill."""
HIGH_PASS_AT_224 = (11, 5.0)
"""Kernel and sigma, in pixels, of the high-pass filter."""
VIEW_NOISE_STD, NEGATIVE_NOISE_STD = 0.18, 0.14
"""Standard deviation of the noise in high-passed views and in hard negatives."""


class UnmaskedView(NamedTuple):
    """A batch of views before they are masked, and all that a fill may make values of."""

    prepared_BCHW: Tensor
    """As the encoder sees them: what `Fill.prepare` made of the images."""
    image01_BCHW: Tensor
    """The images, in [0, 1]."""
    noise: Callable[[], Tensor]
    """Makes the noise of one masked view, [B, C, H, W]; it may be anything in visible pixels."""
    normalisation: Normalisation = IMAGENET
    """That of the prepared views."""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """One way to fill masked patches."""

    high_pass: bool
    """Whether views are high-passed, which gives masks their three shapes."""
    per_view: bool = False
    """Whether each view of a crop has values of its own, as with `UnmaskedView.noise`; else they
    are made once for all of them."""
    prepare: Callable[..., Tensor]
    """Images in [0, 1] to unmasked views, as the encoder sees them; writes them to `out`, a
    keyword, where that is given."""
    values: Callable[[UnmaskedView], Tensor]
    """What stands in the masked pixels of a view; broadcasts to [B, C, H, W]."""
    normalisation: Normalisation = IMAGENET
    """Of the views that it prepares (`of_set`)."""

    def of_set(self, normalisation: Normalisation) -> "Fill":
        """The fill for images of other statistics than ImageNet's; `prepare` takes them then."""
        if normalisation == self.normalisation:
            return self
        prepare = partial(self.prepare, normalisation=normalisation)
        return replace(self, prepare=prepare, normalisation=normalisation)

    def blur_and_prepare(
        self, image01_BCHW: Tensor, blur_BK: Tensor, *, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Blur each image with its own kernel, the last step of its colours, and prepare it.

        Returns:
            The blurred images, in the memory of the given ones where possible, and the views, in
            `out` if given.
        """
        if getattr(self.prepare, "func", self.prepare) is high_passed:  # both filters in one pass
            kernel = scaled_kernel(*HIGH_PASS_AT_224, image01_BCHW.shape[-1])
            statistics = self.normalisation
            return blurred_high_pass(
                image01_BCHW, blur_BK, *kernel, out=out, normalisation=statistics
            )
        blurred_BCHW = blur_in_place(image01_BCHW, blur_BK)
        return blurred_BCHW, self.prepare(blurred_BCHW, out=out)

    def apply(self, view: UnmaskedView, mask_BCHW: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The views, filled where `mask_BCHW` (bool, one channel or all) is True."""
        return filled(view.prepared_BCHW, self.values(view), mask_BCHW, out=out)


def filled(
    prepared_BCHW: Tensor, values: Tensor, mask_BCHW: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """`values` (they broadcast) where the mask is True, else the prepared view, which is finite."""
    values = values.to(prepared_BCHW.dtype)
    if prepared_BCHW.device.type != "cpu":
        return torch.where(mask_BCHW, values, prepared_BCHW, out=out)
    # On a CPU torch.where decides pixel by pixel, in three to ten times the time.
    if values.shape == prepared_BCHW.shape:
        out = torch.empty(prepared_BCHW.shape, dtype=prepared_BCHW.dtype) if out is None else out
        masks = mask_BCHW.view(torch.uint8).expand(out.shape)
        images = out.copy_(prepared_BCHW), values, masks
        for image in zip(*(part.numpy() for part in images), strict=True):
            for onto, source, mask in zip(*image, strict=True):
                cv2.copyTo(source, mask, onto)
        return out
    # Weights of 0 and 1 give the same bits.
    weight = mask_BCHW.view(torch.uint8).to(prepared_BCHW.dtype).expand_as(prepared_BCHW)
    return torch.lerp(prepared_BCHW, values.expand_as(prepared_BCHW), weight, out=out)


def mean_values(view: UnmaskedView) -> Tensor:
    """The view's own mean, per channel."""
    return view.prepared_BCHW.mean(dim=(2, 3), keepdim=True)


def blur_values(view: UnmaskedView) -> Tensor:
    """The strongly blurred image, normalised."""
    kernel = scaled_kernel(*STRONG_BLUR_AT_224, view.image01_BCHW.shape[-1])
    blurred_BCHW = gaussian_blur(view.image01_BCHW, *kernel)
    return normalise(blurred_BCHW, out=blurred_BCHW, normalisation=view.normalisation)


def noise_values(view: UnmaskedView) -> Tensor:
    """Gaussian noise of mean 0, as the view makes it."""
    return view.noise()


def sample_noise(
    seeds_B: Tensor,
    *,
    view: str,
    size: tuple[int, int, int],
    std: float = VIEW_NOISE_STD,
    where_BCHW: Tensor | None = None,
) -> Tensor:
    """`gaussian_noise` of a view by its name."""
    return gaussian_noise(seeds_B, view_number(view), size, std=std, where_BCHW=where_BCHW)


def high_passed(
    image01_BCHW: Tensor, *, out: Tensor | None = None, normalisation: Normalisation = IMAGENET
) -> Tensor:
    """Images in [0, 1], normalised and high-passed."""
    kernel = scaled_kernel(*HIGH_PASS_AT_224, image01_BCHW.shape[-1])
    return blurred_high_pass(image01_BCHW, None, *kernel, out=out, normalisation=normalisation)[1]


FILLS: dict[str, Fill] = {
    "mean": Fill(high_pass=False, prepare=normalise, values=mean_values),
    "blur": Fill(high_pass=False, prepare=normalise, values=blur_values),
    "high_pass": Fill(high_pass=True, per_view=True, prepare=high_passed, values=noise_values),
}
"""The fills by name. A new one is a line here, and its name in `FILL_NAMES` of `settings.py`."""


def fill_named(name: str) -> Fill:
    """Look a fill up by its name; `InputError` lists the known ones."""
    check(name in FILLS, f"unknown fill {name!r}: choose from {', '.join(FILLS)}")
    return FILLS[name]
