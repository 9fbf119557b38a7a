"""How many patches, which ones, and their pixels."""

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
    Counting,
    Strata,
    choose_patches,
    masked_counts,
    patches_to_pixels,
)


def first_patches(count: int, patches: int) -> Strata:
    first = torch.arange(patches)[None] < count
    return first, ~first


def random_strata(seed: int, batch: int, patches: int) -> Strata:
    """Three kinds of patches: in the first stratum, in the second, in neither."""
    kind = torch.randint(3, (batch, patches), generator=torch.Generator().manual_seed(seed))
    return kind == 0, kind == 1


def random_scores(seed: int, *size: int) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


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
            first, second = first_patches(int(row["foreground_patches"]), 49)
            ratio = torch.tensor([float(row["ratio"])], dtype=torch.float64)
            query = masked_counts(ratio, (first, second), Counting(capped))
            nothing = torch.zeros_like(first)
            negative = masked_counts(ratio, (first, nothing), Counting(capped))
            assert [int(query[0]), int(query[1]), int(negative[0]), int(negative[1])] == [
                int(row[f"query_foreground{suffix}"]),
                int(row[f"query_background{suffix}"]),
                int(row[f"negative_foreground{suffix}"]),
                0,
            ], row


@given(st.floats(0.0, 1.0), st.integers(0, 2**31), st.sampled_from([1, 4, 49, 64]))
def test_counts_are_exact(ratio: float, seed: int, patches: int) -> None:
    first, second = random_strata(seed, 3, patches)
    scores = random_scores(seed, 3, 2, patches)
    ratios = torch.full((3,), ratio, dtype=torch.float64)
    masked = choose_patches(scores, (first, second), ratios)
    assert masked.dtype == torch.bool
    for image in range(3):
        sizes = int(first[image].sum()), int(second[image].sum())
        expected = slow_counts(ratio, *sizes, patches)
        for channel in range(2):
            chosen = masked[image, channel]
            counts = int((chosen & first[image]).sum()), int((chosen & second[image]).sum())
            assert counts == expected
            assert int(chosen.sum()) == sum(counts), "a patch in neither stratum is never masked"


@given(st.floats(0.0, 1.0), st.integers(0, 2**31))
def test_the_lowest_scores_are_chosen(ratio: float, seed: int) -> None:
    strata = random_strata(seed, 2, 49)
    scores = random_scores(seed, 2, 3, 49)
    ratios = torch.full((2,), ratio, dtype=torch.float64)
    masked = choose_patches(scores, strata, ratios)
    for image in range(2):
        for channel in range(3):
            for stratum in strata:
                members = [p for p in range(49) if stratum[image, p]]
                members.sort(key=lambda p: float(scores[image, channel, p]))
                flags = [bool(masked[image, channel, p]) for p in members]
                assert flags == sorted(flags, reverse=True)


def test_every_patch_of_a_stratum_is_as_likely() -> None:
    batch = 4000
    first, second = (stratum.expand(batch, -1) for stratum in first_patches(20, 49))
    ratios = torch.full((batch,), 0.25, dtype=torch.float64)
    masked = choose_patches(random_scores(5, batch, 1, 49), (first, second), ratios)
    rates = masked[:, 0].double().mean(dim=0)
    expected = torch.cat((torch.full((20,), 5 / 20), torch.full((29,), 7 / 29))).double()
    # Four standard errors of a share of 4000.
    assert float((rates - expected).abs().max()) < 4 * (0.25 / batch) ** 0.5


@pytest.mark.parametrize("score", [0.0, 1 - 2**-24])
def test_equal_scores_do_not_change_the_counts(score: float) -> None:
    strata = first_patches(20, 49)
    ratios = torch.tensor([0.25], dtype=torch.float64)
    masked = choose_patches(torch.full((1, 1, 49), score), strata, ratios)
    assert int((masked[0] & strata[0]).sum()) == 5
    assert int(masked.sum()) == 12


@pytest.mark.parametrize(("grid", "view_size"), [(1, 3), (2, 2), (7, 21), (8, 64)])
def test_pixels_are_those_of_their_patch(grid: int, view_size: int) -> None:
    patches = random_scores(0, 2, 3, grid * grid)
    pixels = patches_to_pixels(patches, view_size)
    assert pixels.shape == (2, 3, view_size, view_size)
    side = view_size // grid
    for y in range(view_size):
        for x in range(view_size):
            patch = (y // side) * grid + x // side
            assert torch.equal(pixels[:, :, y, x], patches[:, :, patch])


def test_a_view_that_the_grid_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="64 px cannot be cut into 7 x 7"):
        patches_to_pixels(random_scores(0, 1, 1, 49), 64)


@pytest.mark.parametrize(("patches", "inside"), [(49, 20), (16, 5), (16, 1)])
@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.85])
def test_matched_counts_mask_every_patch_alike(patches: int, inside: int, ratio: float) -> None:
    """In both strata, and in one stratum of all: the same expected number for every strategy."""
    batch = 6000
    strata = tuple(stratum.expand(batch, -1) for stratum in first_patches(inside, patches))
    every = torch.ones(batch, patches, dtype=torch.bool)
    ratios = torch.full((batch,), ratio, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    counting = Counting(round_B2=torch.rand(batch, 2, generator=generator, dtype=torch.float64))
    scores = random_scores(2, batch, 1, patches)
    for pair in ((strata[0], strata[1]), (every, ~every)):
        masked = choose_patches(scores, pair, ratios, counting)[:, 0]
        rates = masked.double().mean(dim=0)
        # Four and a half standard errors of a share of 6000, of up to 49 patches.
        assert float((rates - ratio).abs().max()) < 4.5 * (ratio * (1 - ratio) / batch) ** 0.5
        for stratum in pair:
            counts = (masked & stratum).sum(dim=1)
            size = int(stratum[0].sum())
            assert set(counts.tolist()) <= {math.floor(ratio * size), math.ceil(ratio * size)}


def test_the_paper_s_counts_are_far_from_balanced_on_a_small_grid() -> None:
    """Why there are matched counts: 4 x 4 patches, 10 of them foreground, ratios 0.05 to 0.25."""
    ratios = torch.linspace(0.05, 0.25, 2001, dtype=torch.float64)
    first, second = (stratum.expand(2001, -1) for stratum in first_patches(10, 16))
    inside, outside = masked_counts(ratios, (first, second))
    assert float(inside.double().mean() / 10) > 1.5 * float(outside.double().mean() / 6)
