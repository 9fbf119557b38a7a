"""AttMask's strategies against one patch at a time; the others are tested through their masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.training.views.made import QUERY_VIEW
from training.randomness.draws import sample_seeds
from training.views.mask_draws import draw_masks
from training.views.patches import Counting
from training.views.strategies import GridView, attmask_high, attmask_hint, attmask_low, nothing

PATCHES = 49


def view_of(saliency_BN: Tensor, ratio: float, *, seed: int = 0, show: float = 0.1) -> GridView:
    batch, patches = saliency_BN.shape
    drawn = draw_masks(
        sample_seeds(seed, 0, np.arange(batch)),
        view=QUERY_VIEW,
        ratio=(ratio, ratio),
        grid=round(patches**0.5),
        view_size=224,
        box_side=200,
    )
    return GridView(
        foreground_BN=torch.ones_like(saliency_BN, dtype=torch.bool),
        saliency_BN=saliency_BN,
        scores_BCN=drawn.scores_BCN,
        ratio_B=drawn.ratio_B,
        show=show,
        counting=Counting(),
    )


def random_saliency(seed: int, batch: int = 3, patches: int = PATCHES) -> Tensor:
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.sampled_from([1, 4, 49, 64]))
def test_high_and_low_are_the_ends_of_the_order(seed: int, ratio: float, patches: int) -> None:
    saliency = random_saliency(seed, patches=patches)
    view = view_of(saliency, ratio, seed=seed)
    count = int(patches * ratio)
    for image in range(3):
        ranked = sorted(range(patches), key=lambda p: float(saliency[image, p]))
        for masked, expected in (
            (attmask_high(view), ranked[patches - count :]),
            (attmask_low(view), ranked[:count]),
        ):
            for channel in range(3):
                chosen = masked[image, channel].nonzero().flatten().tolist()
                assert chosen == sorted(expected)


@given(st.integers(0, 2**31), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_hint_shows_a_few_of_the_most_salient(seed: int, ratio: float, show: float) -> None:
    saliency = random_saliency(seed)
    view = view_of(saliency, ratio, seed=seed, show=show)
    high, hint = attmask_high(view), attmask_hint(view)
    count = int(PATCHES * ratio)
    shown = int(show * count)
    pool = min(max(int(show * PATCHES), shown), count)
    assert not bool((hint & ~high).any())
    for image in range(3):
        top = set(saliency[image].argsort(descending=True)[:pool].tolist())
        for channel in range(3):
            revealed = (high & ~hint)[image, channel].nonzero().flatten().tolist()
            assert len(revealed) == shown
            assert set(revealed) <= top
            by_score = sorted(top, key=lambda p: float(view.scores_BCN[image, channel, p]))
            assert set(revealed) == set(by_score[:shown])


def test_hints_are_drawn_uniformly_from_the_most_salient() -> None:
    batch = 4000
    saliency = torch.arange(PATCHES).float().expand(batch, -1)
    view = view_of(saliency, 0.3, show=0.1)
    revealed = (attmask_high(view) & ~attmask_hint(view))[:, 0]
    # floor(0.1 * 14) = 1 of the floor(0.1 * 49) = 4 most salient.
    assert revealed.sum(dim=1).tolist() == [1] * batch
    rates = revealed.double().mean(dim=0)
    assert rates[:45].sum() == 0
    assert float((rates[45:] - 0.25).abs().max()) < 4 * (0.25 * 0.75 / batch) ** 0.5


@pytest.mark.parametrize("strategy", [attmask_high, attmask_low, attmask_hint])
def test_a_flat_map_is_masked_at_random(strategy: object) -> None:
    assert callable(strategy)
    batch = 4000
    masked = strategy(view_of(torch.full((batch, PATCHES), 0.5), 0.3, show=0.0))
    assert set(masked.sum(dim=2).flatten().tolist()) == {14}
    rates = masked[:, 0].double().mean(dim=0)
    expected = 14 / PATCHES
    assert float((rates - expected).abs().max()) < 4.5 * (expected * (1 - expected) / batch) ** 0.5


def test_nothing_is_nothing() -> None:
    assert not bool(nothing(view_of(random_saliency(0), 1.0)).any())
