"""Which patches of a view are masked, by strategy.

Shapes: `B` batch, `C` channels (1, or 3 where channels may be masked apart), `N` patches.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.core.errors import InputError
from training.views.patches import Counting, Strata, choose_patches


class GridView(NamedTuple):
    """What a strategy knows of a batch of views, and the numbers it may choose by."""

    foreground_BN: Tensor
    """bool; for `shuffled`, that of another image."""
    saliency_BN: Tensor
    """Saliency per patch, float."""
    scores_BCN: Tensor
    """Uniform in [0, 1) per channel and patch."""
    ratio_B: Tensor
    """Masking ratio, float64."""
    show: float
    """Share of the masked patches that `attmask_hint` shows again."""
    counting: Counting
    """How many patches a ratio masks."""


def _in_strata(strata: Strata, view: GridView) -> Tensor:
    return choose_patches(view.scores_BCN, strata, view.ratio_B, view.counting)


def nothing(view: GridView) -> Tensor:
    """No patch at all."""
    return torch.zeros_like(view.scores_BCN, dtype=torch.bool)


def balanced(view: GridView) -> Tensor:
    """Foreground and background lose about the same share (arXiv 2309.12757, section 3.1)."""
    return _in_strata((view.foreground_BN, ~view.foreground_BN), view)


def random(view: GridView) -> Tensor:
    """One stratum: the baseline of Masked Siamese ConvNets (arXiv 2206.07700)."""
    every_BN = torch.ones_like(view.foreground_BN)
    return _in_strata((every_BN, ~every_BN), view)


def foreground_only(view: GridView) -> Tensor:
    """The masks of hard negatives."""
    return _in_strata((view.foreground_BN, torch.zeros_like(view.foreground_BN)), view)


def as_many_of_all(view: GridView) -> Tensor:
    """As many patches as `foreground_only` masks, drawn from the whole view: a control."""
    every_BN = torch.ones_like(view.foreground_BN)
    ratio_B = view.ratio_B * view.foreground_BN.to(torch.float64).mean(dim=1)
    return choose_patches(view.scores_BCN, (every_BN, ~every_BN), ratio_B, view.counting)


def background(view: GridView) -> Tensor:
    """Every background patch: what an exchange replaces."""
    return ~view.foreground_BN[:, None].expand_as(view.scores_BCN)


def attmask_high(view: GridView) -> Tensor:
    """The floor(r * N) most salient patches (AttMask, arXiv 2203.12719)."""
    return _places(view, descending=True) < _count(view)


def attmask_low(view: GridView) -> Tensor:
    """The floor(r * N) least salient patches."""
    return _places(view, descending=False) < _count(view)


def attmask_hint(view: GridView) -> Tensor:
    """The most salient patches, of which a few of the very most salient are shown again.

    Of k masked patches floor(show * k) are shown, drawn from the floor(show * N) most salient ones.
    """
    patches = view.saliency_BN.shape[1]
    place_BCN, count_B11 = _places(view, descending=True), _count(view)
    shown_B11 = torch.floor(view.show * count_B11.to(torch.float64)).to(torch.int64)
    pool_B11 = torch.minimum(shown_B11.clamp(min=int(view.show * patches)), count_B11)
    candidates_BCN = torch.where(place_BCN < pool_B11, view.scores_BCN, 2.0)
    drawn_BCN = _inverse(torch.argsort(candidates_BCN, dim=-1, stable=True))
    return (place_BCN < count_B11) & (drawn_BCN >= shown_B11)


def _count(view: GridView) -> Tensor:
    """floor(r * N), or r * N rounded as drawn; int64 `[B, 1, 1]`."""
    expected_B = view.ratio_B * view.saliency_BN.shape[1]
    if view.counting.round_B2 is not None:
        expected_B = expected_B + view.counting.round_B2[:, 0]
    return torch.floor(expected_B).to(torch.int64)[:, None, None]


def _places(view: GridView, *, descending: bool) -> Tensor:
    """Each patch's place in the order of saliency, int64 `[B, C, N]`; equals in random order."""
    shuffled_BCN = torch.argsort(view.scores_BCN, dim=-1, stable=True)
    saliency_BCN = view.saliency_BN[:, None].expand_as(shuffled_BCN).gather(-1, shuffled_BCN)
    order_BCN = torch.argsort(saliency_BCN, dim=-1, descending=descending, stable=True)
    return _inverse(shuffled_BCN.gather(-1, order_BCN))


def _inverse(order_BCN: Tensor) -> Tensor:
    places = torch.arange(order_BCN.shape[-1], device=order_BCN.device).expand_as(order_BCN)
    return torch.empty_like(order_BCN).scatter_(-1, order_BCN, places)


MASK_STRATEGIES: dict[str, Callable[[GridView], Tensor]] = {
    "none": nothing,
    "random": random,
    "balanced": balanced,
    # A control: the caller hands over the foreground of another image.
    "shuffled": balanced,
    "attmask_high": attmask_high,
    "attmask_hint": attmask_hint,
    "attmask_low": attmask_low,
    # The caller puts another image's background there (`training.views.exchange`).
    "exchange": background,
}
"""The strategies by name: views to masked patches, bool `[B, C, N]`."""


NEGATIVE_PATCHES: dict[str, Callable[[GridView], Tensor]] = {
    "object": foreground_only,
    "random": as_many_of_all,
}
"""What is hidden in a hard negative, by name."""


def mask_strategy(name: str) -> Callable[[GridView], Tensor]:
    """Look a mask strategy up by its name.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    if name not in MASK_STRATEGIES:
        raise InputError(
            f"unknown mask strategy {name!r}: choose from {', '.join(MASK_STRATEGIES)}"
        )
    return MASK_STRATEGIES[name]
