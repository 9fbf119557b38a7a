"""The background of a query exchanged for another image's.

After Ryali, Schwab and Morcos (arXiv 2103.12719) and object-aware contrastive learning (arXiv
2108.00049). The donor is the next image of the global batch; its object is not copied: object
patches of the donor are replaced by patches of its own background first.

Shapes: `B` batch, `C` channels, `H W` pixels, `G` grid side, `N` = G * G patches.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.randomness.draws import Stream, uniforms, view_number
from training.views.maskers import Masker, MaskerInputs, float32, has_background
from training.views.patches import patches_to_pixels
from training.views.settings import ViewConfig


class ExchangeDraws(NamedTuple):
    """The numbers that decide which views stand on another background: uniform in [0, 1)."""

    apply_B: Tensor


@dataclass(frozen=True)
class BackgroundMasker(Masker):
    """Masks the whole background of some views, if the next image has a background to lend."""

    probability: float
    """Share of the views, in [0, 1]."""
    crop: str
    """Name of the crop, which decides the draws."""

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> ExchangeDraws:
        """Draw which views are masked."""
        apply_B1 = uniforms(seeds_B, view_number(self.crop), Stream.EXCHANGE_APPLY, 1)
        return ExchangeDraws(float32(apply_B1[:, 0]))

    def mask(self, draws: ExchangeDraws, inputs: MaskerInputs) -> Tensor:
        """The masked pixels: bool, `[B, 1, H, W]`."""
        assert inputs.next_foreground_BGG is not None
        chosen_B = has_background(inputs.next_foreground_BGG) & (draws.apply_B < self.probability)
        patches_BN = ~inputs.foreground_BGG.flatten(1) & chosen_B[:, None]
        return patches_to_pixels(patches_BN[:, None], inputs.view_size)


class SwapInputs(NamedTuple):
    """A batch of unmasked views, and the donors: the views of the next images."""

    views_BCHW: Tensor
    donors_BCHW: Tensor
    foreground_BGG: Tensor
    donor_foreground_BGG: Tensor
    mask_B1HW: Tensor
    """The masked pixels of whole patches, bool."""
    uniform_BN: Tensor
    """What `PatchSwap.draw` drew."""


@dataclass(frozen=True)
class PatchSwap(ABC):
    """Fills masked patches with patches of the next image in the global batch."""

    stream: ClassVar[Stream]
    crop: str
    """Name of the crop, which decides the draws."""

    def draw(self, seeds_B: NDArray[np.uint64], *, grid: int) -> Tensor:
        """Uniform numbers `[B, N]` that choose a background patch for each patch of the object."""
        return float32(uniforms(seeds_B, view_number(self.crop), self.stream, grid * grid))

    @abstractmethod
    def filled(self, swap: SwapInputs) -> Tensor:
        """The views with swapped patches, `[B, C, H, W]`."""


@dataclass(frozen=True)
class BackgroundSwap(PatchSwap):
    """Fills masked patches with the background of the next image."""

    stream: ClassVar[Stream] = Stream.EXCHANGE_PATCH

    def filled(self, swap: SwapInputs) -> Tensor:
        """The views on the donors' backgrounds."""
        patch_BN = donor_patches(swap.donor_foreground_BGG, swap.uniform_BN)
        return exchanged_views(swap.views_BCHW, swap.donors_BCHW, patch_BN, swap.mask_B1HW)


def donor_patches(donor_foreground_BGG: Tensor, uniform_BN: Tensor) -> Tensor:
    """The donor's patch for each position, int64 `[B, N]`, from the numbers of `BackgroundSwap`.

    Its own at that position, or a drawn one of its background where that is object. Meaningless for
    a donor without background.
    """
    object_BN = donor_foreground_BGG.flatten(1)
    background_first_BN = torch.argsort(object_BN.to(torch.int8), dim=1, stable=True)
    count_B1 = (~object_BN).sum(dim=1, keepdim=True)
    drawn_BN = (uniform_BN * count_B1).long().clamp_(max=object_BN.shape[1] - 1)
    own_N = torch.arange(object_BN.shape[1], device=object_BN.device)
    return torch.where(object_BN, background_first_BN.gather(1, drawn_BN), own_N)


def exchanged_views(
    views_BCHW: Tensor, donors_BCHW: Tensor, patch_BN: Tensor, mask_B1HW: Tensor
) -> Tensor:
    """Views with patches of their donors (`donor_patches`) where the mask, of patches, is True."""
    return torch.where(mask_B1HW, rearranged(donors_BCHW, patch_BN), views_BCHW)


def rearranged(donors_BCHW: Tensor, patch_BN: Tensor) -> Tensor:
    """Views whose patch at each position is the one that `patch_BN` numbers."""
    batch, channels, height, _ = donors_BCHW.shape
    grid = round(patch_BN.shape[1] ** 0.5)
    side = height // grid
    cut = donors_BCHW.reshape(batch, channels, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5)
    cut_BNX = cut.reshape(batch, grid * grid, -1)
    moved_BNX = cut_BNX.gather(1, patch_BN[:, :, None].expand_as(cut_BNX))
    moved = moved_BNX.reshape(batch, grid, grid, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(donors_BCHW.shape)
