"""Masks of queries and hard negatives, and the numbers behind them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from tests.training.views.made import NEGATIVE_VIEW, QUERY_VIEW, settings_of
from training.randomness.draws import sample_seeds, view_number
from training.views.maskers import (
    MASKERS,
    MaskDraws,
    MaskerInputs,
    draw_masks,
    masker_named,
    object_hider,
    scaled_side,
    strategy_masker,
)
from training.views.patches import MASK_STRATEGIES, Counting, masked_counts
from training.views.settings import MaskConfig

GRID, VIEW_SIZE, SIDE = 7, 28, 4
BOX = 25


def draws(
    batch: int,
    *,
    view: int = QUERY_VIEW,
    ratio: tuple[float, float] = (0.05, 0.25),
    box_side: int = BOX,
) -> MaskDraws:
    seeds = sample_seeds(0, 0, np.arange(batch))
    return draw_masks(
        seeds, view=view, ratio=ratio, grid=GRID, view_size=VIEW_SIZE, box_side=box_side
    )


def inputs_of(foreground: Tensor) -> MaskerInputs:
    """A saliency that is higher in the foreground."""
    order = torch.rand(GRID, GRID, generator=torch.Generator().manual_seed(9))
    return MaskerInputs(foreground, foreground + order, VIEW_SIZE, None)


def query_mask(foreground: Tensor, drawn: MaskDraws, *, high_pass: bool, **masks: Any) -> Tensor:  # noqa: ANN401
    config = MaskConfig(**{"probability": 1.0, **masks})
    return strategy_masker(config, high_pass).mask(drawn, inputs_of(foreground))


def negative_mask(foreground: Tensor, drawn: MaskDraws, *, high_pass: bool) -> Tensor:
    return object_hider(MaskConfig(), high_pass).mask(drawn, inputs_of(foreground))


def random_foreground(batch: int, share: float = 0.6) -> Tensor:
    return torch.rand(batch, GRID, GRID, generator=torch.Generator().manual_seed(2)) < share


def shaped(drawn: MaskDraws, shape: float) -> MaskDraws:
    """The same draws, with one shape for all: 0.1 focal, 0.3 spatial, 0.9 channel-wise."""
    return drawn._replace(shape_B=torch.full_like(drawn.shape_B, shape))


def patches_of(mask: Tensor) -> Tensor:
    """`[B, C, H, W]` -> `[B, C, G * G]`; fails where a patch is masked in part."""
    batch, channels = mask.shape[:2]
    cut = mask.reshape(batch, channels, GRID, SIDE, GRID, SIDE)
    patches = cut[:, :, :, 0, :, 0]
    assert torch.equal(cut, patches[:, :, :, None, :, None].expand_as(cut))
    return patches.flatten(2)


def test_draws_are_in_range_and_differ_between_views() -> None:
    query = draws(500)
    assert query.ratio_B.dtype == torch.float64
    assert query.scores_BCN.shape == (500, 3, 49)
    assert query.scores_BCN.dtype == query.shape_B.dtype == query.apply_B.dtype == torch.float32
    assert query.box_B4.dtype == torch.int64
    assert 0.05 <= float(query.ratio_B.min()) < 0.06
    assert 0.24 < float(query.ratio_B.max()) <= 0.25
    assert float(query.scores_BCN.max()) < 1.0
    assert len(torch.unique(draws(2000).box_B4, dim=0)) == 16, "the box reaches every position"
    negatives = [f"negative-{source}-{i}" for source in ("key", "query") for i in range(3)]
    for other in ("key", *negatives, "exchanged", "global-2"):
        drawn = draws(500, view=view_number(other))
        assert not any(torch.equal(a, b) for a, b in zip(query, drawn, strict=True))


def test_the_box_of_a_hard_negative_is_smaller() -> None:
    scaled = [scaled_side(*sides) for sides in ((200, 224), (200, 64), (130, 64), (130, 1))]
    assert scaled == [200, 57, 37, 1]
    seeds, settings = sample_seeds(0, 0, np.arange(3)), settings_of(size=224, grid=7, branch="both")
    negatives = [settings.hard_negative(source, 1) for source in ("query", "key")]
    views = (settings.query(), settings.key(), *negatives)
    for view, side in zip(views, (200, 200, 130, 130), strict=True):
        assert view.masker is not None
        box_B4 = view.masker.draw(seeds, view=view.name, cut=view.crop.cut).box_B4
        assert bool((box_B4[:, 2:] - box_B4[:, :2] == side).all())


@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
@pytest.mark.parametrize("high_pass", [False, True])
def test_masks_have_exact_numbers_of_patches(share: float, high_pass: bool) -> None:
    """Hard negatives lose foreground only; the numbers are those of `masked_counts`."""
    foreground = random_foreground(64, share)
    flat = foreground.flatten(1)
    for view, ratio in ((QUERY_VIEW, (0.05, 0.25)), (NEGATIVE_VIEW, (0.4, 0.7))):
        drawn = shaped(draws(64, view=view, ratio=ratio), 0.9)
        if view == QUERY_VIEW:
            mask, second = query_mask(foreground, drawn, high_pass=high_pass), ~flat
        else:
            mask = negative_mask(foreground, drawn, high_pass=high_pass)
            second = torch.zeros_like(flat)
        assert mask.shape == (64, 3 if high_pass else 1, VIEW_SIZE, VIEW_SIZE)
        assert mask.dtype == torch.bool
        patches = patches_of(mask)
        first_B, second_B = masked_counts(drawn.ratio_B, (flat, second), Counting(high_pass))
        for channel in range(patches.shape[1]):
            assert torch.equal((patches[:, channel] & flat).sum(dim=1), first_B)
            assert torch.equal((patches[:, channel] & ~flat).sum(dim=1), second_B)


@pytest.mark.parametrize("strategy", MASK_STRATEGIES)
@pytest.mark.parametrize("high_pass", [False, True])
def test_a_view_is_masked_alike_in_any_batch_and_as_often_as_asked(
    strategy: str, high_pass: bool
) -> None:
    foreground, drawn = random_foreground(2000), draws(2000, ratio=(0.2, 0.5))
    always, half, never = (
        query_mask(foreground, drawn, strategy=strategy, high_pass=high_pass, probability=p)
        for p in (1.0, 0.5, 0.0)
    )
    keep = torch.tensor([11, 3])
    part = MaskDraws(*(value[keep] for value in drawn))
    alone = query_mask(foreground[keep], part, strategy=strategy, high_pass=high_pass)
    assert torch.equal(alone, always[keep])
    assert not bool(never.any())
    masked = half.flatten(1).any(dim=1)
    assert torch.equal(half[masked], always[masked]), "a masked view has the same mask"
    if strategy == "none":
        assert not bool(always.any())
    else:
        assert bool(always.flatten(1).any(dim=1).all())
        # Four standard errors of a share of 2000.
        assert float(masked.double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / 2000**0.5)


def test_the_three_shapes_come_as_often_as_stated() -> None:
    count = 4000
    mask = query_mask(random_foreground(1).expand(count, -1, -1), draws(count), high_pass=True)
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
    query = query_mask(foreground, drawn, high_pass=True)
    negative = negative_mask(foreground, drawn, high_pass=True)
    for image in range(50):
        top, left, bottom, right = drawn.box_B4[image].tolist()
        assert (bottom - top, right - left) == (11, 11)
        assert min(top, left) >= 0
        assert max(bottom, right) <= VIEW_SIZE
        expected = torch.zeros(3, VIEW_SIZE, VIEW_SIZE, dtype=torch.bool)
        expected[:, top:bottom, left:right] = True
        assert torch.equal(negative[image].expand_as(expected), expected)
        assert torch.equal(query[image], ~expected)


@pytest.mark.parametrize("shape", [0.3, 0.9])
def test_spatial_masks_share_patches_and_channel_wise_ones_do_not(shape: float) -> None:
    foreground = torch.ones(20, GRID, GRID, dtype=torch.bool)
    drawn = shaped(draws(20, ratio=(0.25, 0.25)), shape)
    patches = patches_of(query_mask(foreground, drawn, high_pass=True))
    assert set(patches.sum(dim=2).flatten().tolist()) == {12}, "each channel has its own 12"
    assert bool((patches == patches[:, :1]).all()) == (shape < 0.44)


def test_a_strategy_that_another_process_has_registered_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(MASKERS, "lines", strategy_masker)
        config = MaskConfig(strategy="lines")
    with pytest.raises(InputError, match=r"unknown mask strategy 'lines': choose from .*learned"):
        masker_named(config, high_pass=False)
