"""Which patches of a grid are masked: how many of each stratum, which ones, by which strategy.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `G` grid side,
`N` = G * G patches, `H W` pixels.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.errors import InputError

Strata = tuple[Tensor, Tensor]
"""Two disjoint sets of patches, bool `[B, N]` each. A patch in neither is never masked."""

_CAPPED_FROM, _CAP = 0.56, 0.55


class Counting(NamedTuple):
    """How the masking ratio gives the numbers of masked patches; by default as in the paper."""

    capped: bool = False
    """r * n / N becomes 0.55 from 0.56 on, as in the paper's high-pass variant."""
    released: bool = False
    """Count as the published code does: a stratum of exactly one patch is never masked, and of a
    second stratum of n patches whose count is -1 (41 to 47 foreground patches of 49 can make it so)
    all but one are."""
    round_B2: Tensor | None = None
    """Uniform in [0, 1), float64. Where given, r * n is rounded up with the probability of its
    fraction in each stratum of n patches, so that every patch is masked with probability r. The cap
    does not apply."""


def masked_counts(
    ratio_B: Tensor, strata: Strata, counting: Counting | None = None
) -> tuple[Tensor, Tensor]:
    """How many patches of each stratum are masked.

    With r the masking ratio, N patches and n of them in the first stratum: round(r * (n / N) * N)
    of the first, half to even, and floor(N * r) minus that of the second; never below 0 nor above
    what the stratum has (arXiv 2309.12757, section 3.1).

    The ratios are float64, so that the counts are exact.
    """
    counting = counting or Counting()
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
        # The published code cuts a list of patches at [:count]: a negative count counts from the
        # list's end.
        second_B = torch.where(second_B < 0, second_size_B + second_B, second_B)
        first_B = torch.where(size_B == 1, 0, first_B)
        second_B = torch.where(second_size_B == 1, 0, second_B)
    return torch.minimum(first_B, size_B), torch.minimum(second_B.clamp(min=0), second_size_B)


def choose_patches(
    scores_BCN: Tensor, strata: Strata, ratio_B: Tensor, counting: Counting | None = None
) -> Tensor:
    """Mask the patches of lowest score in each stratum, as many as `masked_counts` says.

    With uniform scores that is a uniform draw without replacement. Equal scores go to the lower
    patch number, so that the counts are exact.

    Scores are in [0, 1), and patches are chosen for each channel apart; ratios are float64 in
    [0, 1]. Returns True where masked, bool `[B, C, N]`.
    """
    first_BN, second_BN = strata
    first_B, second_B = masked_counts(ratio_B, strata, counting)
    # One sort serves both strata: the first one's patches, then the second's, then the others.
    offset_BN = 2.0 - 2.0 * first_BN - 1.0 * second_BN
    order_BCN = torch.argsort(scores_BCN + offset_BN[:, None], dim=-1, stable=True)
    rank_N = torch.arange(first_BN.shape[1], device=first_BN.device)
    start_B1 = first_BN.sum(dim=1, keepdim=True)
    chosen_BN = (rank_N < first_B[:, None]) | (
        (rank_N >= start_B1) & (rank_N < start_B1 + second_B[:, None])
    )
    masked_BCN = torch.zeros_like(order_BCN, dtype=torch.bool)
    return masked_BCN.scatter_(-1, order_BCN, chosen_BN[:, None].expand_as(order_BCN))


def patches_to_pixels(patches_BCN: Tensor, view_size: int) -> Tensor:
    """Spread each patch of a square grid over its pixels, `[B, C, view_size, view_size]`."""
    batch, channels, patches = patches_BCN.shape
    grid = math.isqrt(patches)
    if view_size % grid:
        raise InputError(
            f"a view of {view_size} px cannot be cut into {grid} x {grid} equal patches: "
            f"choose a view size that {grid} divides"
        )
    side = view_size // grid
    # Columns first: the rows are then copied whole, several times faster than pixel by pixel.
    rows = patches_BCN[..., None].expand(-1, -1, -1, side).reshape(batch, channels, grid, 1, -1)
    return rows.expand(-1, -1, -1, side, -1).reshape(batch, channels, view_size, view_size)


def masked_share(mask_BCHW: Tensor, foreground_BGG: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of the foreground's and of the background's pixels that are masked.

    Averaged over the channels, float32 in [0, 1], `[B]` each; 0 for a stratum without patches.
    """
    batch, channels, height, width = mask_BCHW.shape
    grid = foreground_BGG.shape[-1]
    cut = mask_BCHW.view(torch.uint8).reshape(batch, channels, grid, height // grid, width)
    if height // grid < 256 and width % 8 == 0:
        # Eight bytes at once, as one number: no byte counts so far that it reaches the next.
        columns = cut.view(torch.int64).sum(dim=3).view(torch.uint8)
    else:
        columns = cut.sum(dim=3, dtype=torch.int32)
    patches = columns.view(batch, channels, grid, grid, width // grid)
    count_BN = patches.sum(dim=(1, 4), dtype=torch.int32).flatten(1)
    share_BN = count_BN * (grid * grid / (channels * height * width))
    foreground_BN = foreground_BGG.flatten(1).float()
    inside_B, outside_B = (
        (share_BN * stratum_BN).sum(dim=1) / stratum_BN.sum(dim=1).clamp(min=1.0)
        for stratum_BN in (foreground_BN, 1.0 - foreground_BN)
    )
    return inside_B, outside_B


class StrategyInputs(NamedTuple):
    """What a strategy knows of a batch of views, and the numbers by which it may choose."""

    foreground_BN: Tensor
    """Bool; for `shuffled`, that of another image."""
    saliency_BN: Tensor
    scores_BCN: Tensor
    """Uniform in [0, 1), for each channel and patch."""
    ratio_B: Tensor
    """Masking ratio, float64."""
    show: float
    """Share of the masked patches that `attmask_hint` shows again."""
    counting: Counting
    boost: float = 0.0
    """Added by `soft_high` to the scores of salient patches."""
    top: float = 0.0
    """Share of the patches that count as salient in `soft_high`."""


Strategy = Callable[[StrategyInputs], Tensor]
"""Returns the masked patches, bool `[B, C, N]`."""


def nothing(view: StrategyInputs) -> Tensor:
    """No patch at all."""
    return torch.zeros_like(view.scores_BCN, dtype=torch.bool)


def balanced(view: StrategyInputs) -> Tensor:
    """Foreground and background lose about the same share (arXiv 2309.12757, section 3.1)."""
    strata = view.foreground_BN, ~view.foreground_BN
    return choose_patches(view.scores_BCN, strata, view.ratio_B, view.counting)


def random(view: StrategyInputs) -> Tensor:
    """One stratum: the baseline of Masked Siamese ConvNets (arXiv 2206.07700)."""
    return balanced(view._replace(foreground_BN=torch.ones_like(view.foreground_BN)))


def foreground_only(view: StrategyInputs) -> Tensor:
    """Foreground patches only, in the numbers of a balanced view: the masks of hard negatives."""
    strata = view.foreground_BN, torch.zeros_like(view.foreground_BN)
    return choose_patches(view.scores_BCN, strata, view.ratio_B, view.counting)


def as_many_of_all(view: StrategyInputs) -> Tensor:
    """As many patches as `foreground_only` masks, drawn from the whole view: a control."""
    share_B = view.foreground_BN.to(torch.float64).mean(dim=1)
    return random(view._replace(ratio_B=view.ratio_B * share_B))


def background(view: StrategyInputs) -> Tensor:
    """Every background patch."""
    return ~view.foreground_BN[:, None].expand_as(view.scores_BCN)


def attmask_high(view: StrategyInputs) -> Tensor:
    """The floor(r * N) most salient patches (AttMask, arXiv 2203.12719)."""
    return _saliency_ranks(view, descending=True) < _count(view)


def attmask_low(view: StrategyInputs) -> Tensor:
    """The floor(r * N) least salient patches."""
    return _saliency_ranks(view, descending=False) < _count(view)


def attmask_hint(view: StrategyInputs) -> Tensor:
    """The most salient patches, of which a few of the very most salient are shown again.

    Of k masked patches ceil(show * k) are shown, drawn from the ceil(show * N) most salient ones:
    rounded down, small grids would often show none. After AttMask's hint (arXiv 2203.12719, section
    3.3), with two departures: the order is that of stored saliency, not of a teacher's attention,
    and the ratio is drawn for each image.
    """
    patches = view.saliency_BN.shape[1]
    rank_BCN, count_B11 = _saliency_ranks(view, descending=True), _count(view)
    # Without the rounding, 0.1 * 30 would be 3.0000000000000004, and 4 patches.
    shown_B11 = torch.ceil((view.show * count_B11.to(torch.float64)).round(decimals=9))
    shown_B11 = shown_B11.to(torch.int64)
    least = math.ceil(round(view.show * patches, 9))
    pool_B11 = torch.minimum(shown_B11.clamp(min=least), count_B11)
    candidates_BCN = torch.where(rank_BCN < pool_B11, view.scores_BCN, 2.0)
    drawn_BCN = torch.argsort(torch.argsort(candidates_BCN, dim=-1, stable=True), dim=-1)
    return (rank_BCN < count_B11) & (drawn_BCN >= shown_B11)


def soft_high(view: StrategyInputs) -> Tensor:
    """Patches of highest u + b * [patch among the q most salient], u uniform.

    As many as `random` masks, whose mask it is with b 0; from b 1 on the most salient patches go
    first. AutoMAE (arXiv 2303.06583) masks so by the scores of its generator, b 0.5 and q 0.25.
    """
    is_top_BCN = _saliency_ranks(view, descending=True) < view.top * view.saliency_BN.shape[1]
    # `random` masks the lowest scores, in [0, 1): this is 1 - u, shifted and scaled into the range.
    lowest_first_BCN = view.scores_BCN.double() + view.boost * ~is_top_BCN
    return random(view._replace(scores_BCN=lowest_first_BCN / (1 + view.boost)))


def _count(view: StrategyInputs) -> Tensor:
    return whole_count(view.ratio_B, view.saliency_BN.shape[1], view.counting)[:, None, None]


def whole_count(ratio_B: Tensor, patches: int, counting: Counting) -> Tensor:
    """How many of all N patches are masked: floor(r * N), or r * N rounded as drawn; int64."""
    expected_B = ratio_B * patches
    if counting.round_B2 is not None:
        expected_B = expected_B + counting.round_B2[:, 0]
    return torch.floor(expected_B).to(torch.int64)


def _saliency_ranks(view: StrategyInputs, *, descending: bool) -> Tensor:
    """Each patch's rank by saliency, int64 `[B, C, N]`; equal ones in random order."""
    shuffled_BCN = torch.argsort(view.scores_BCN, dim=-1, stable=True)
    saliency_BCN = view.saliency_BN[:, None].expand_as(shuffled_BCN).gather(-1, shuffled_BCN)
    order_BCN = torch.argsort(saliency_BCN, dim=-1, descending=descending, stable=True)
    return torch.argsort(shuffled_BCN.gather(-1, order_BCN), dim=-1)


MASK_STRATEGIES: dict[str, Strategy] = {
    "none": nothing,
    "random": random,
    "balanced": balanced,
    "shuffled": balanced,  # a control: by the foreground of another image
    "attmask_high": attmask_high,
    "attmask_hint": attmask_hint,
    "attmask_low": attmask_low,
    "soft_high": soft_high,
    "exchange": background,  # another image's background goes there (`training.views.exchange`)
}
"""The strategies of queries and keys by name. A new one is a line here."""

NEGATIVE_PATCHES: dict[str, Strategy] = {"object": foreground_only, "random": as_many_of_all}
"""What is hidden in a hard negative, by name."""
