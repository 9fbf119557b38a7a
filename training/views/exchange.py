"""The background of a query exchanged for another image's.

After Ryali, Schwab and Morcos (arXiv 2103.12719) and object-aware contrastive learning (arXiv
2108.00049); the donor is the next image of the global batch, whose object does not come along: its
object patches are replaced by patches of its own background first.

Shapes: `B` batch, `C` channels, `H W` pixels, `G` grid side, `N` = G * G patches, `P` side of a
patch.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from training.views.mask_draws import ExchangeDraws


class Exchange(NamedTuple):
    """How the backgrounds of a batch of queries are exchanged."""

    patch_BN: Tensor
    """Which patch of the donor stands in each place (`donor_patches`)."""
    possible_B: Tensor
    """Whether the donor has any background, bool: a view stays as it is where it has none."""
    mask_B1HW: Tensor | None
    """Which pixels are exchanged in the further view that a method wants, bool; None: it wants
    none."""


def donor_patches(donor_foreground_BGG: Tensor, draws: ExchangeDraws) -> Tensor:
    """Which patch of the donor stands in each place: its own, or a drawn one of its background.

    Args:
        donor_foreground_BGG: bool.
        draws: on the same device.

    Returns:
        Patch numbers, int64, `[B, N]`; of a donor without background they mean nothing.
    """
    object_BN = donor_foreground_BGG.flatten(1)
    background_first_BN = torch.argsort(object_BN.to(torch.int8), dim=1, stable=True)
    count_B1 = (~object_BN).sum(dim=1, keepdim=True)
    place_BN = (draws.patch_BN * count_B1).long().clamp_(max=object_BN.shape[1] - 1)
    own_N = torch.arange(object_BN.shape[1], device=object_BN.device)
    return torch.where(object_BN, background_first_BN.gather(1, place_BN), own_N)


def exchanged_views(
    views_BCHW: Tensor, donors_BCHW: Tensor, patch_BN: Tensor, mask_B1HW: Tensor
) -> Tensor:
    """Views with patches of their donors where the mask is True.

    Args:
        views_BCHW: as the encoder sees them.
        donors_BCHW: likewise.
        patch_BN: which patch of the donor stands in each place (`donor_patches`).
        mask_B1HW: bool, whole patches.

    Returns:
        New views, same shape and dtype.
    """
    batch, channels, height, _ = donors_BCHW.shape
    grid = round(patch_BN.shape[1] ** 0.5)
    side = height // grid
    cut = donors_BCHW.reshape(batch, channels, grid, side, grid, side).permute(0, 2, 4, 1, 3, 5)
    cut_BNX = cut.reshape(batch, grid * grid, -1)
    placed_BNX = cut_BNX.gather(1, patch_BN[:, :, None].expand_as(cut_BNX))
    placed = placed_BNX.reshape(batch, grid, grid, channels, side, side).permute(0, 3, 1, 4, 2, 5)
    return torch.where(mask_B1HW, placed.reshape(donors_BCHW.shape), views_BCHW)
