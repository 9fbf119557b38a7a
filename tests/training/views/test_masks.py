"""Masks of queries and hard negatives."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.errors import InputError
from tests.training.views.made import NEGATIVE_VIEW, QUERY_VIEW
from training.randomness.draws import sample_seeds
from training.views.mask_draws import MaskDraws, draw_masks
from training.views.masks import hard_negative_mask, masked_share, view_mask
from training.views.strategies import MASK_STRATEGIES

GRID, VIEW_SIZE, SIDE = 7, 28, 4
BOX = 25


def draws(
    batch: int,
    *,
    seed: int = 0,
    view: int = QUERY_VIEW,
    ratio: tuple[float, float] = (0.05, 0.25),
    box_side: int = BOX,
) -> MaskDraws:
    seeds = sample_seeds(seed, 0, np.arange(batch))
    return draw_masks(
        seeds, view=view, ratio=ratio, grid=GRID, view_size=VIEW_SIZE, box_side=box_side
    )


def query_mask(
    foreground: Tensor,
    drawn: MaskDraws,
    *,
    strategy: str,
    high_pass: bool,
    probability: float = 1.0,
) -> Tensor:
    """A mask that goes by the foreground, or by a saliency that is higher there."""
    order = torch.rand(GRID, GRID, generator=torch.Generator().manual_seed(9))
    return view_mask(
        foreground,
        foreground + order,
        drawn,
        strategy=strategy,
        view_size=VIEW_SIZE,
        high_pass=high_pass,
        probability=probability,
    )


def random_foreground(batch: int, share: float = 0.6) -> Tensor:
    return torch.rand(batch, GRID, GRID, generator=torch.Generator().manual_seed(2)) < share


def shaped(drawn: MaskDraws, shape: float) -> MaskDraws:
    """The same draws, with one shape for all: 0.1 focal, 0.3 spatial, 0.9 channel-wise."""
    return drawn._replace(shape_B=torch.full_like(drawn.shape_B, shape))


def patches_of(mask: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, C, G, G]`; fails where a patch is masked in part."""
    batch, channels = mask.shape[:2]
    cut = mask.reshape(batch, channels, GRID, SIDE, GRID, SIDE)
    patches = cut[:, :, :, 0, :, 0]
    assert torch.equal(cut, patches[:, :, :, None, :, None].expand_as(cut))
    return patches


def slow_query(foreground: Tensor, ratio: float, scores: Tensor) -> set[int]:
    """Patch by patch, for one image."""
    inside = [p for p in range(GRID * GRID) if foreground.flatten()[p]]
    outside = [p for p in range(GRID * GRID) if p not in inside]
    first = round(ratio * (len(inside) / (GRID * GRID)) * (GRID * GRID))
    second = max(0, int(GRID * GRID * ratio) - first)
    chosen = set()
    for members, count in ((inside, first), (outside, second)):
        chosen |= set(sorted(members, key=lambda p: float(scores[p]))[:count])
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
def test_balanced_is_the_slow_reference(share: float) -> None:
    foreground, drawn = random_foreground(64, share), draws(64)
    mask = query_mask(foreground, drawn, strategy="balanced", high_pass=False)
    assert mask.shape == (64, 1, VIEW_SIZE, VIEW_SIZE)
    assert mask.dtype == torch.bool
    patches = patches_of(mask).flatten(1)
    for image in range(64):
        got = {p for p in range(GRID * GRID) if patches[image, p]}
        ratio = float(drawn.ratio_B[image])
        assert got == slow_query(foreground[image], ratio, drawn.scores_BCN[image, 0])


@given(st.integers(0, 2**31), st.integers(0, 49), st.booleans())
def test_a_hard_negative_loses_foreground_only(seed: int, patches: int, high_pass: bool) -> None:
    order = torch.randperm(49, generator=torch.Generator().manual_seed(seed))
    foreground = (order < patches).view(1, GRID, GRID)
    drawn = shaped(draws(1, seed=seed, view=NEGATIVE_VIEW, ratio=(0.4, 0.7)), 0.9)
    mask = hard_negative_mask(foreground, drawn, view_size=VIEW_SIZE, high_pass=high_pass)
    chosen = patches_of(mask)
    assert not bool((chosen & ~foreground[:, None]).any())
    share = float(drawn.ratio_B[0]) * (patches / 49)
    if high_pass and share >= 0.56:
        share = 0.55
    assert chosen.sum(dim=(2, 3)).flatten().tolist() == [round(share * 49)] * chosen.shape[1]


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
@pytest.mark.parametrize("high_pass", [False, True])
def test_same_draws_same_mask_whatever_the_batch(strategy: str, high_pass: bool) -> None:
    foreground, drawn = random_foreground(16), draws(16)
    keep = torch.tensor([11, 3])
    part = MaskDraws(*(value[keep] for value in drawn))

    def masks(foreground: Tensor, drawn: MaskDraws) -> Tensor:
        return query_mask(foreground, drawn, strategy=strategy, high_pass=high_pass)

    whole = masks(foreground, drawn)
    assert torch.equal(masks(foreground[keep], part), whole[keep])
    assert torch.equal(masks(foreground, draws(16)), whole)


@pytest.mark.parametrize("high_pass", [False, True])
def test_none_masks_nothing(high_pass: bool) -> None:
    mask = query_mask(
        random_foreground(64),
        draws(64),
        strategy="none",
        high_pass=high_pass,
    )
    assert not bool(mask.any())


def test_random_does_not_look_at_the_foreground() -> None:
    drawn = draws(64)
    masks = [
        query_mask(
            random_foreground(64, share),
            drawn,
            strategy="random",
            high_pass=False,
        )
        for share in (0.0, 0.5, 1.0)
    ]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])
    counts = patches_of(masks[0]).sum(dim=(1, 2, 3)).tolist()
    assert counts == [round(float(ratio) * 49) for ratio in drawn.ratio_B]


def test_the_three_shapes_come_as_often_as_stated() -> None:
    count = 4000
    drawn = draws(count)
    mask = query_mask(
        random_foreground(1).expand(count, -1, -1),
        drawn,
        strategy="balanced",
        high_pass=True,
    )
    alike = (mask == mask[:, :1]).all(dim=(1, 2, 3))
    # At most a quarter of the patches are masked, but at least the 20 % outside a box of 25 / 28;
    # a focal mask is told by its whole border row or column.
    focal = (mask.all(dim=2) | mask.all(dim=3)).all(dim=1).any(dim=1)
    shares = [float(s.double().mean()) for s in (focal, alike & ~focal, ~alike)]
    for share, expected in zip(shares, (0.20, 0.24, 0.56), strict=True):
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / count) ** 0.5)


def test_focal_query_keeps_the_box_and_focal_negative_hides_it() -> None:
    drawn = shaped(draws(50, box_side=11), 0.1)
    foreground = random_foreground(50)
    query = query_mask(foreground, drawn, strategy="balanced", high_pass=True)
    negative = hard_negative_mask(foreground, drawn, view_size=VIEW_SIZE, high_pass=True)
    for image in range(50):
        top, left, bottom, right = drawn.box_B4[image].tolist()
        assert (bottom - top, right - left) == (11, 11)
        assert min(top, left) >= 0
        assert max(bottom, right) <= VIEW_SIZE
        expected = torch.zeros(VIEW_SIZE, VIEW_SIZE, dtype=torch.bool)
        expected[top:bottom, left:right] = True
        for channel in range(3):
            assert torch.equal(negative[image, channel].expand_as(expected), expected)
            assert torch.equal(query[image, channel], ~expected)


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_spatial_masks_share_patches_and_channel_wise_ones_do_not(shape: float) -> None:
    foreground = torch.ones(20, GRID, GRID, dtype=torch.bool)
    drawn = shaped(draws(20, ratio=(0.25, 0.25)), shape)
    mask = query_mask(foreground, drawn, strategy="balanced", high_pass=True)
    patches = patches_of(mask)
    assert set(patches.sum(dim=(2, 3)).flatten().tolist()) == {12}, "each channel has its own 12"
    assert bool((patches == patches[:, :1]).all()) == (shape < 0.44)


def test_masked_share_by_hand() -> None:
    foreground = torch.zeros(3, 2, 2, dtype=torch.bool)
    foreground[0, 0] = True  # the upper half
    foreground[1] = True
    mask = torch.zeros(3, 2, 4, 4, dtype=torch.bool)
    mask[0, 0, :2, :2] = True  # one of two foreground patches, in one of two channels
    mask[0, :, 2:, :] = True
    mask[1, :, 0, 0] = True  # a pixel of 16
    inside, outside = masked_share(mask, foreground)
    assert inside.tolist() == [0.25, 1 / 16, 0.0]
    assert outside.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("side", [3, 12, 240, 300])
def test_masked_share_of_patches_of_any_size(side: int) -> None:
    """Rows that are no whole words, and more of them than a byte can count, too."""
    foreground = torch.tensor([[[True, False], [False, True]]])
    mask = torch.zeros(1, 1, 2 * side, 2 * side, dtype=torch.bool)
    mask[..., :side, :side] = True
    mask[..., : side // 3, side:] = True
    inside, outside = masked_share(mask, foreground)
    assert inside.tolist() == pytest.approx([0.5])
    assert outside.tolist() == pytest.approx([1 / 6])


def test_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="'hint': choose from none, random, balanced, shuffled"):
        query_mask(random_foreground(1), draws(1), strategy="hint", high_pass=False)


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
@pytest.mark.parametrize("high_pass", [False, True])
def test_a_view_is_masked_as_often_as_asked(strategy: str, high_pass: bool) -> None:
    foreground, drawn = random_foreground(2000), draws(2000, ratio=(0.2, 0.5))
    always, half, never = (
        query_mask(foreground, drawn, strategy=strategy, high_pass=high_pass, probability=p)
        for p in (1.0, 0.5, 0.0)
    )
    assert not bool(never.any())
    masked = half.flatten(1).any(dim=1)
    assert torch.equal(half[masked], always[masked]), "a masked view has the same mask"
    if strategy != "none":
        assert bool(always.flatten(1).any(dim=1).all())
        # Four standard errors of a share of 2000.
        assert float(masked.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)
