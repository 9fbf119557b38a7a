"""Matched negatives: another image's object on the background of this query.

After Ryali, Schwab and Morcos (arXiv 2103.12719), who give a query and an extra negative the same
background, so that the background cannot tell them from each other. The object is the foreground of
the next image of the global batch, at its place in that image's view. This image's object is
replaced by patches of its own background first.

Where that cannot be done the negative is the next image's view as it is, an ordinary negative: this
image has no background, or the next one has no foreground, or no background that would tell its
object from the rest.

Shapes: `B` batch, `C` channels, `H W` pixels.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.randomness.draws import Stream
from training.views.exchange import PatchSwap, SwapInputs, donor_patches, rearranged
from training.views.maskers import Masker, MaskerInputs, has_background
from training.views.patches import patches_to_pixels
from training.views.settings import ViewConfig


@dataclass(frozen=True)
class ObjectMasker(Masker):
    """Masks what the next image gives: its object, or the whole view where that cannot be."""

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> tuple[()]:
        """Nothing: both foregrounds decide the mask."""
        return ()

    def mask(self, draws: tuple[()], inputs: MaskerInputs) -> Tensor:
        """The masked pixels: bool, `[B, 1, H, W]`."""
        assert inputs.next_foreground_BGG is not None
        object_BN = inputs.next_foreground_BGG.flatten(1)
        fits_B = has_background(inputs.foreground_BGG) & has_background(inputs.next_foreground_BGG)
        fits_B &= object_BN.any(dim=1)
        patches_BN = object_BN | ~fits_B[:, None]
        return patches_to_pixels(patches_BN[:, None], inputs.view_size)


@dataclass(frozen=True)
class ObjectSwap(PatchSwap):
    """Fills masked patches with the next image's; background stands where this one's object was."""

    stream: ClassVar[Stream] = Stream.MATCHED_PATCH

    def filled(self, swap: SwapInputs) -> Tensor:
        """The donors' objects on the backgrounds of the views, `[B, C, H, W]`."""
        patch_BN = donor_patches(swap.foreground_BGG, swap.uniform_BN)
        background_BCHW = rearranged(swap.views_BCHW, patch_BN)
        return torch.where(swap.mask_B1HW, swap.donors_BCHW, background_BCHW)
