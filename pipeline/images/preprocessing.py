"""The preparation of an image at test time, as an exported backbone's JSON states it.

Shapes: B batch, C channels, H W pixels, S side of the view.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass
from pipeline.images.pixel_format import IMAGENET_MEAN, IMAGENET_STD


def short_side(view_size: int) -> int:
    """The shorter side before the centre crop: 256 for a view of 224."""
    return round(view_size * 256 / 224)


def resize_and_crop(
    height: int, width: int, short: int, size: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width after torchvision's `Resize(short)`, top and left of `CenterCrop(size)`."""
    longer = int(short * max(height, width) / min(height, width))
    resized = (short, longer) if height <= width else (longer, short)
    return resized, (round((resized[0] - size) / 2), round((resized[1] - size) / 2))


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize uint8 images [..., C, H, W] as torchvision's `Resize` does: bilinear, antialiased.

    Within one level of torchvision on a Pillow image, which rounds rows and columns differently.
    An image that has this size is returned itself.
    """
    if (height, width) == tuple(image.shape[-2:]):
        return image
    image_BCHW = image.reshape(-1, *image.shape[-3:])
    if image.device.type != "cpu":  # only a CPU resizes 8-bit images
        image_BCHW = image_BCHW.float()
    resized_BCHW = F.interpolate(
        image_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    if resized_BCHW.is_floating_point():
        resized_BCHW = resized_BCHW.round_().clamp_(0, 255).to(torch.uint8)
    return resized_BCHW.reshape(*image.shape[:-2], height, width)


def centre_view(image: torch.Tensor, short: int, size: int) -> torch.Tensor:
    """The test-time view: torchvision's `Resize(short)` and `CenterCrop(size)` of 8-bit images.

    The kNN check, every protocol and every export see these pixels.

    Args:
        image: uint8 [..., C, H, W].
        short: shorter side after resizing, in pixels, at least `size`.
        size: side S of the view, in pixels.

    Returns:
        uint8 [..., C, S, S]; may share memory with the image.
    """
    whole, (top, left) = resize_and_crop(image.shape[-2], image.shape[-1], short, size)
    return resized(image, *whole)[..., top : top + size, left : left + size]


@dataclass(frozen=True, kw_only=True)
class HighPass:
    """The Gaussian taken away from the normalised view, in its pixels; the paper's is 11 and 5."""

    kernel: int
    sigma: float

    def __post_init__(self) -> None:
        if self.kernel < 3 or self.kernel % 2 == 0 or not self.sigma > 0:
            raise InputError(
                f"high_pass is kernel {self.kernel}, sigma {self.sigma}: "
                "wanted an odd kernel >= 3 and a sigma > 0"
            )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What a backbone wants to see: the test-time view.

    The shorter side becomes `resize` pixels, the centre crop has `view_size`; mean and std are of
    each channel (RGB of three) in [0, 1]; a backbone pretrained with a high-pass gets it after the
    normalisation.
    """

    view_size: int
    resize: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    high_pass: HighPass | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.view_size <= self.resize:
            raise InputError(
                f"view_size {self.view_size} and resize {self.resize}: "
                "wanted 1 <= view_size <= resize"
            )
        if not self.mean or len(self.mean) != len(self.std) or not min(self.std) > 0:
            raise InputError(
                f"mean {self.mean} and std {self.std}: wanted one of each per channel, std > 0"
            )
        if self.high_pass is not None and self.high_pass.kernel // 2 >= self.view_size:
            raise InputError(
                f"a high-pass kernel of {self.high_pass.kernel} does not fit "
                f"a view of {self.view_size} pixels"
            )


class Preprocess(nn.Module):
    """Images of any size, prepared for the backbone: `centre_view`, then `prepare`."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        for name in ("mean", "std"):
            value = torch.tensor(getattr(preprocessing, name)).view(1, -1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Prepare uint8 [B, C, H, W] or [C, H, W]: float32 [B, C, S, S] or [C, S, S]."""
        view01_BCHW = self.view(image)
        view_BCHW = self.prepare(view01_BCHW.reshape(-1, *view01_BCHW.shape[-3:]))
        return view_BCHW if image.ndim == 4 else view_BCHW[0]

    def view(self, image: torch.Tensor) -> torch.Tensor:
        """As `forward`, but in [0, 1], not normalised and not filtered.

        Raises InputError for another dtype or shape.
        """
        wanted = self.preprocessing
        num = len(wanted.mean)
        if image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != num:
            raise InputError(
                f"got {image.dtype} {list(image.shape)}: wanted torch.uint8 [B, {num}, H, W] "
                f"or [{num}, H, W]"
            )
        return centre_view(image, wanted.resize, wanted.view_size).float() / 255

    def prepare(self, image01_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalise and filter views that have their size, float [B, C, S, S] in [0, 1]."""
        x_BCHW = (image01_BCHW - self.mean.to(image01_BCHW)) / self.std.to(image01_BCHW)
        filtered = self.preprocessing.high_pass
        return x_BCHW if filtered is None else high_pass(x_BCHW, filtered.kernel, filtered.sigma)
