"""Choosing patches of a grid: how many of each stratum, which ones, and their pixels.

Shapes: `B` batch, `C` channels, `G` grid side, `N` = G * G patches, `H W` pixels.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.errors import InputError

Strata = tuple[Tensor, Tensor]
"""Two disjoint sets of patches, bool `[B, N]` each. A patch in neither is never masked."""

_CAPPED_FROM = 0.56
_CAP = 0.55


class Counting(NamedTuple):
    """How the numbers of masked patches follow from the masking ratio."""

    capped: bool = False
    """Whether r * n / N becomes 0.55 where it is 0.56 or more, as in the paper's high-pass
    variant."""
    released: bool = False
    """Whether to count as the published code does: a stratum of exactly one patch is never masked,
    and of a second stratum of n patches whose count is -1 (41 to 47 foreground patches of 49 can
    make it so) all but one are."""
    round_B2: Tensor | None = None
    """Uniform in [0, 1), float64. Where given, r * n is rounded up with the probability of its
    fraction in each stratum of n patches, so that every patch is masked with probability r. The
    cap does not apply."""


AS_THE_PAPER = Counting()


def masked_counts(
    ratio_B: Tensor, strata: Strata, counting: Counting = AS_THE_PAPER
) -> tuple[Tensor, Tensor]:
    """How many patches of each stratum are masked.

    With r the masking ratio, N patches and n of them in the first stratum: round(r * (n / N) * N)
    of the first, half to even, and floor(N * r) minus that of the second; never below 0 nor above
    what the stratum has (arXiv 2309.12757, section 3.1). float64: the result is exact.

    Args:
        ratio_B: masking ratios in [0, 1], float64.
        strata: the two sets of patches.
        counting: how they are counted; by default as the paper does.

    Returns:
        Two int64 tensors, `[B]`.
    """
    patches = strata[0].shape[1]
    size_B, second_size_B = strata[0].sum(dim=1), strata[1].sum(dim=1)
    if counting.round_B2 is not None:
        expected_B2 = ratio_B[:, None] * torch.stack((size_B, second_size_B), dim=1)
        count_B2 = torch.floor(expected_B2 + counting.round_B2).to(torch.int64)
        return torch.minimum(count_B2[:, 0], size_B), torch.minimum(count_B2[:, 1], second_size_B)
    share_B = ratio_B * (size_B.to(torch.float64) / patches)
    if counting.capped:
        share_B = torch.where(share_B >= _CAPPED_FROM, _CAP, share_B)
    first_B = torch.round(share_B * patches).to(torch.int64)
    second_B = torch.floor(patches * ratio_B).to(torch.int64) - first_B
    if counting.released:
        # The published code cuts a list of patches at [:count]: so a negative count counts from
        # the list's end.
        second_B = torch.where(second_B < 0, second_size_B + second_B, second_B)
        first_B = torch.where(size_B == 1, 0, first_B)
        second_B = torch.where(second_size_B == 1, 0, second_B)
    return torch.minimum(first_B, size_B), torch.minimum(second_B.clamp(min=0), second_size_B)


def choose_patches(
    scores_BCN: Tensor,
    strata: Strata,
    ratio_B: Tensor,
    counting: Counting = AS_THE_PAPER,
) -> Tensor:
    """Mask the patches of lowest score in each stratum, as many as `masked_counts` says.

    With uniform scores that is a uniform draw without replacement. Equal scores go to the lower
    patch number, so that the counts are exact.

    Args:
        scores_BCN: float scores in [0, 1); patches are chosen for each channel apart.
        strata: the two sets of patches.
        ratio_B: masking ratios in [0, 1], float64.
        counting: as in `masked_counts`.

    Returns:
        True where masked, bool `[B, C, N]`.
    """
    first_BN, second_BN = strata
    first_B, second_B = masked_counts(ratio_B, strata, counting)
    # One sort serves both strata: the first one's patches, then the second's, then the others.
    offset_BN = 2.0 - 2.0 * first_BN - 1.0 * second_BN
    order_BCN = torch.argsort(scores_BCN + offset_BN[:, None], dim=-1, stable=True)
    place_N = torch.arange(first_BN.shape[1], device=first_BN.device)
    start_B1 = first_BN.sum(dim=1, keepdim=True)
    chosen_BN = (place_N < first_B[:, None]) | (
        (place_N >= start_B1) & (place_N < start_B1 + second_B[:, None])
    )
    masked_BCN = torch.zeros_like(order_BCN, dtype=torch.bool)
    return masked_BCN.scatter_(-1, order_BCN, chosen_BN[:, None].expand_as(order_BCN))


def patches_to_pixels(patches_BCN: Tensor, view_size: int) -> Tensor:
    """Spread each patch over its pixels.

    Args:
        patches_BCN: one value per patch of a square grid, row by row.
        view_size: side of the view in pixels.

    Returns:
        The values per pixel, `[B, C, view_size, view_size]`.

    Raises:
        InputError: a view that the grid does not divide.
    """
    batch, channels, patches = patches_BCN.shape
    grid = math.isqrt(patches)
    if view_size % grid:
        raise InputError(
            f"a view of {view_size} px cannot be cut into {grid} x {grid} equal patches:"
            f" choose a view size that {grid} divides"
        )
    side = view_size // grid
    # Columns first: the rows are then copied whole, several times faster than pixel by pixel.
    rows = patches_BCN[..., None].expand(-1, -1, -1, side).reshape(batch, channels, grid, 1, -1)
    return rows.expand(-1, -1, -1, side, -1).reshape(batch, channels, view_size, view_size)
