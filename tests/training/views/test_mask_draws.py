"""The numbers behind the masks."""

import numpy as np
import pytest
import torch

from tests.training.views.made import QUERY_VIEW, settings_of
from training.randomness.draws import sample_seeds, view_number
from training.views.mask_draws import (
    MaskDraws,
    draw_masks,
    is_channel_wise,
    is_focal,
    scaled_side,
)

VIEW_SIZE = 28


def draws(
    batch: int,
    *,
    view: int = QUERY_VIEW,
    ratio: tuple[float, float] = (0.05, 0.25),
    box_side: int = 25,
) -> MaskDraws:
    seeds = sample_seeds(0, 0, np.arange(batch))
    return draw_masks(seeds, view=view, ratio=ratio, grid=7, view_size=VIEW_SIZE, box_side=box_side)


def test_the_box_reaches_every_place() -> None:
    corners = draws(2000, box_side=VIEW_SIZE - 3).box_B4[:, :2]
    assert len(torch.unique(corners, dim=0)) == 16


def test_draws_are_in_range_and_differ_between_views() -> None:
    query = draws(500)
    assert query.ratio_B.dtype == torch.float64
    assert query.scores_BCN.shape == (500, 3, 49)
    assert query.scores_BCN.dtype == query.shape_B.dtype == query.apply_B.dtype == torch.float32
    assert query.box_B4.dtype == torch.int64
    assert 0.05 <= float(query.ratio_B.min()) < 0.06
    assert 0.24 < float(query.ratio_B.max()) <= 0.25
    assert float(query.scores_BCN.max()) < 1.0
    negatives = [f"negative-{source}-{i}" for source in ("key", "query") for i in range(3)]
    for other in ("key", *negatives, "exchanged", "global-2"):
        drawn = draws(500, view=view_number(other))
        assert not any(torch.equal(a, b) for a, b in zip(query, drawn, strict=True))


def test_shapes_come_as_often_as_stated() -> None:
    drawn = draws(4000)
    for shape, expected in ((is_focal, 0.20), (is_channel_wise, 0.56)):
        share = float(shape(drawn).double().mean())
        assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 4000) ** 0.5)
    assert not bool((is_focal(drawn) & is_channel_wise(drawn)).any())


@pytest.mark.parametrize(
    ("side", "view_size", "expected"), [(200, 224, 200), (200, 64, 57), (130, 64, 37), (130, 1, 1)]
)
def test_scaled_side(side: int, view_size: int, expected: int) -> None:
    assert scaled_side(side, view_size) == expected


def test_the_box_of_a_hard_negative_is_smaller() -> None:
    seeds, settings = sample_seeds(0, 0, np.arange(3)), settings_of(size=224, grid=7, branch="both")
    views = (
        settings.query(),
        settings.key(),
        *(settings.hard_negative(s, 1) for s in ("query", "key")),
    )
    for view, side in zip(views, (200, 200, 130, 130), strict=True):
        assert view.masker is not None
        box_B4 = view.masker.draw(seeds, view=view.name, cut=view.crop.cut).box_B4
        assert bool((box_B4[:, 2:] - box_B4[:, :2] == side).all())
