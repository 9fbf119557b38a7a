"""How many patches, which ones by which strategy, their pixels, and the share that is masked."""

import csv
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.core.errors import InputError
from training.views.patches import (
    MASK_STRATEGIES,
    NEGATIVE_PATCHES,
    Counting,
    Strata,
    StrategyInputs,
    attmask_high,
    attmask_hint,
    attmask_low,
    choose_patches,
    masked_counts,
    masked_share,
    patches_to_pixels,
)

PATCHES = 49
SEEDS, SHARES = st.integers(0, 2**31), st.floats(0.0, 1.0)


def first_patches(count: int, patches: int) -> Strata:
    first = torch.arange(patches)[None] < count
    return first, ~first


def random_scores(seed: int, *size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def constant(ratio: float, batch: int) -> Tensor:
    return torch.full((batch,), ratio, dtype=torch.float64)


def slow_counts(ratio: float, first: int, second: int, patches: int) -> tuple[int, int]:
    chosen = round(ratio * (first / patches) * patches)
    rest = int(patches * ratio) - chosen
    return min(chosen, first), min(max(rest, 0), second)


def test_golden_counts(golden: Path) -> None:
    with (golden / "mask_counts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 80
    for capped, suffix in ((False, ""), (True, "_high_pass")):
        for row in rows:
            first, second = first_patches(int(row["foreground_patches"]), PATCHES)
            ratio = torch.tensor([float(row["ratio"])], dtype=torch.float64)
            query = masked_counts(ratio, (first, second), Counting(capped))
            negative = masked_counts(ratio, (first, torch.zeros_like(first)), Counting(capped))
            assert [int(query[0]), int(query[1]), int(negative[0]), int(negative[1])] == [
                int(row[f"query_foreground{suffix}"]),
                int(row[f"query_background{suffix}"]),
                int(row[f"negative_foreground{suffix}"]),
                0,
            ], row


@given(SHARES, SEEDS, st.sampled_from([1, 4, 49, 64]), st.booleans())
def test_the_lowest_scores_are_chosen_in_exact_numbers(
    ratio: float, seed: int, patches: int, equal_scores: bool
) -> None:
    """In each of two strata and each channel; a patch in neither stratum is never masked."""
    kind = torch.randint(3, (2, patches), generator=torch.Generator().manual_seed(seed))
    strata = kind == 0, kind == 1
    scores = random_scores(seed, 2, 2, patches)
    if equal_scores:
        scores = torch.full_like(scores, 1 - 2**-24)
    masked = choose_patches(scores, strata, constant(ratio, 2))
    assert masked.dtype == torch.bool
    for image in range(2):
        sizes = [int(stratum[image].sum()) for stratum in strata]
        counts = slow_counts(ratio, sizes[0], sizes[1], patches)
        for channel in range(2):
            expected: list[int] = []
            for stratum, count in zip(strata, counts, strict=True):
                members = [p for p in range(patches) if stratum[image, p]]
                members.sort(key=lambda p: float(scores[image, channel, p]))
                expected += members[:count]
            assert masked[image, channel].nonzero().flatten().tolist() == sorted(expected)


def test_every_patch_of_a_stratum_is_as_likely() -> None:
    batch = 4000
    first, second = (stratum.expand(batch, -1) for stratum in first_patches(20, PATCHES))
    masked = choose_patches(
        random_scores(5, batch, 1, PATCHES), (first, second), constant(0.25, batch)
    )
    rates = masked[:, 0].double().mean(dim=0)
    expected = torch.cat((torch.full((20,), 5 / 20), torch.full((29,), 7 / 29))).double()
    # Four standard errors of a share of 4000.
    assert float((rates - expected).abs().max()) < 4 * (0.25 / batch) ** 0.5


@pytest.mark.parametrize(("grid", "view_size"), [(1, 3), (2, 2), (7, 21), (8, 64)])
def test_pixels_are_those_of_their_patch(grid: int, view_size: int) -> None:
    patches = random_scores(0, 2, 3, grid * grid)
    side = view_size // grid
    expected = patches.view(2, 3, grid, grid).repeat_interleave(side, 2).repeat_interleave(side, 3)
    assert torch.equal(patches_to_pixels(patches, view_size), expected)
    with pytest.raises(InputError, match="64 px cannot be cut into 7 x 7"):
        patches_to_pixels(random_scores(0, 1, 1, 49), 64)


@pytest.mark.parametrize(("patches", "inside"), [(49, 20), (16, 5), (16, 1)])
@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.85])
def test_matched_counts_mask_every_patch_alike(patches: int, inside: int, ratio: float) -> None:
    """In both strata, and in one stratum of all: the same expected number for every strategy.

    The paper's counts are far from balanced on a small grid.
    """
    batch = 6000
    first, second = (stratum.expand(batch, -1) for stratum in first_patches(inside, patches))
    every = torch.ones(batch, patches, dtype=torch.bool)
    generator = torch.Generator().manual_seed(1)
    counting = Counting(round_B2=torch.rand(batch, 2, generator=generator, dtype=torch.float64))
    scores = random_scores(2, batch, 1, patches)
    for strata in ((first, second), (every, ~every)):
        masked = choose_patches(scores, strata, constant(ratio, batch), counting)[:, 0]
        rates = masked.double().mean(dim=0)
        # Four and a half standard errors of a share of 6000, of up to 49 patches.
        assert float((rates - ratio).abs().max()) < 4.5 * (ratio * (1 - ratio) / batch) ** 0.5
        for stratum in strata:
            counts = (masked & stratum).sum(dim=1)
            size = int(stratum[0].sum())
            assert set(counts.tolist()) <= {math.floor(ratio * size), math.ceil(ratio * size)}


def view_of(
    saliency_BN: Tensor, ratio: float, *, seed: int = 0, show: float = 0.1
) -> StrategyInputs:
    batch, patches = saliency_BN.shape
    return StrategyInputs(
        foreground_BN=saliency_BN > 0.4,
        saliency_BN=saliency_BN,
        scores_BCN=random_scores(seed + 1, batch, 3, patches),
        ratio_B=constant(ratio, batch),
        show=show,
        counting=Counting(),
    )


@given(SEEDS, SHARES, SHARES, st.sampled_from([1, 4, 49, 64]))
def test_attmask_is_the_slow_reference(seed: int, ratio: float, show: float, patches: int) -> None:
    """The ends of the order of saliency; a hint shows a few of the most salient again."""
    saliency = random_scores(seed, 2, patches)
    view = view_of(saliency, ratio, seed=seed, show=show)
    count = int(patches * ratio)
    shown = math.ceil(round(show * count, 9))
    pool = min(max(math.ceil(round(show * patches, 9)), shown), count)
    for image in range(2):
        ranked = sorted(range(patches), key=lambda p: -float(saliency[image, p]))
        for channel in range(3):
            revealed = sorted(
                ranked[:pool], key=lambda p: float(view.scores_BCN[image, channel, p])
            )
            for strategy, expected in (
                (attmask_high, set(ranked[:count])),
                (attmask_low, set(ranked[patches - count :])),
                (attmask_hint, set(ranked[:count]) - set(revealed[:shown])),
            ):
                assert set(strategy(view)[image, channel].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("ratio", [0.1, 0.15, 0.2, 0.5])
def test_a_hint_shows_something_in_every_view_of_a_small_grid(ratio: float) -> None:
    view = view_of(random_scores(1, 4, 49), ratio, seed=1, show=0.1)
    masked = attmask_high(view).sum(dim=-1)
    assert (
        attmask_hint(view).sum(dim=-1) == masked - math.ceil(round(0.1 * int(49 * ratio), 9))
    ).all()


@pytest.mark.parametrize("strategy", [attmask_high, attmask_low, attmask_hint])
def test_a_flat_map_is_masked_at_random(strategy: object) -> None:
    assert callable(strategy)
    batch = 4000
    masked = strategy(view_of(torch.full((batch, PATCHES), 0.5), 0.3, show=0.0))
    assert set(masked.sum(dim=2).flatten().tolist()) == {14}
    rates = masked[:, 0].double().mean(dim=0)
    expected = 14 / PATCHES
    assert float((rates - expected).abs().max()) < 4.5 * (expected * (1 - expected) / batch) ** 0.5


@given(SEEDS, SHARES, st.sampled_from([0.0, 0.25, 0.5, 0.8]), st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_soft_high_is_the_slow_reference(seed: int, ratio: float, top: float, boost: float) -> None:
    """The highest of 1 - score + boost * [among the most salient]; `random` without a boost."""
    saliency = random_scores(seed, 2, PATCHES)
    view = view_of(saliency, ratio, seed=seed)._replace(boost=boost, top=top)
    masked, as_random = MASK_STRATEGIES["soft_high"](view), MASK_STRATEGIES["random"](view)
    assert torch.equal(masked.sum(dim=2), as_random.sum(dim=2))
    assert boost or torch.equal(masked, as_random)
    for image in range(2):
        ranked = sorted(range(PATCHES), key=lambda p: -float(saliency[image, p]))
        best = set(ranked[: math.ceil(top * PATCHES)])
        for channel in range(3):
            scores = view.scores_BCN[image, channel].tolist()
            order = sorted(range(PATCHES), key=lambda p: boost * (p not in best) + scores[p])
            chosen = set(masked[image, channel].nonzero().flatten().tolist())
            assert chosen == set(order[: len(chosen)])
            if boost >= 1:
                assert chosen <= best or best <= chosen, "the most salient first"


def test_the_other_strategies() -> None:
    view = view_of(random_scores(3, 50, PATCHES), 0.5)
    inside = view.foreground_BN[:, None]
    counts = {name: choose(view).sum(dim=2)[:, 0] for name, choose in MASK_STRATEGIES.items()}
    assert not bool(counts["none"].any())
    assert set(counts["random"].tolist()) == {24}  # round half to even
    other = view._replace(foreground_BN=~view.foreground_BN)
    assert torch.equal(MASK_STRATEGIES["random"](view), MASK_STRATEGIES["random"](other))
    hidden = MASK_STRATEGIES["exchange"](view)
    assert torch.equal(hidden, ~inside.expand_as(hidden))
    hides = {name: choose(view) for name, choose in NEGATIVE_PATCHES.items()}
    assert not bool((hides["object"] & ~inside).any())
    assert bool((hides["random"] & ~inside).any())
    assert torch.equal(hides["object"].sum(dim=2), hides["random"].sum(dim=2))


@pytest.mark.parametrize("side", [3, 12, 240, 300])
def test_masked_share_by_hand(side: int) -> None:
    """Rows that are no whole words, and more of them than a byte can count, too."""
    foreground = torch.tensor([[[True, False], [False, True]], [[True, True], [True, True]]])
    mask = torch.zeros(2, 2, 2 * side, 2 * side, dtype=torch.bool)
    mask[0, 0, :side, :side] = True  # one of two foreground patches, in one of two channels
    mask[0, :, : side // 3, side:] = True
    mask[1, :, 0, 0] = True
    inside, outside = masked_share(mask, foreground)
    assert inside.tolist() == pytest.approx([0.25, 1 / (4 * side**2)])
    assert outside.tolist() == pytest.approx([1 / 6, 0.0])
