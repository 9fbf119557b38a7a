"""Which patches are foreground, and what the manifest says of a map."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InputError
from pipeline.saliency.foreground import (
    FLAT_STD,
    Rule,
    check_rule,
    foreground,
    map_foreground,
    map_statistics,
    separability,
)


def test_golden(golden: Path) -> None:
    values = np.load(golden / "foreground.npz")
    got = foreground(torch.from_numpy(values["saliency"]))
    assert np.array_equal(got.numpy(), values["foreground"])


@given(st.integers(0, 2**31), st.integers(2, 9), st.floats(-2.0, 2.0))
def test_is_the_threshold_by_hand(seed: int, grid: int, threshold: float) -> None:
    """Of each view by its own statistics."""
    saliency = np.random.default_rng(seed).random((3, grid, grid), dtype=np.float32)
    got = foreground(torch.from_numpy(saliency), threshold=threshold).numpy()
    for view in range(3):
        values = [float(value) for value in saliency[view].flatten()]
        mean = sum(values) / len(values)
        std = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
        for value, marked in zip(values, got[view].flatten(), strict=True):
            margin = value - (mean + threshold * std)
            if abs(margin) > 1e-12:  # the order of a float64 sum
                assert bool(marked) == (margin > 0)


@pytest.mark.parametrize("rule", ["std", "otsu"])
def test_of_whole_maps_is_the_same(rule: Rule) -> None:
    """Random levels between two, planted objects, flat maps, and rounding around one level."""
    rng = np.random.default_rng(0)
    ends = np.sort(rng.integers(0, 256, (40, 2)), axis=1)
    maps = [rng.integers(low, high + 1, (8, 8), dtype=np.uint8) for low, high in ends]
    planted = np.full((8, 8), 255, np.uint8)
    planted[:3, :3] = 3
    maps += [planted, *(np.full((8, 8), level, np.uint8) for level in (0, 100, 255))]
    maps += [rng.integers(99, 101, (8, 8), dtype=np.uint8)]
    stored = np.stack(maps)
    found = map_foreground(stored, rule=rule, threshold=0.3)
    assert np.array_equal(found, foreground(stored / 255, rule=rule, threshold=0.3))
    assert found[-4:].all()
    assert 0 < found[:-4].mean() < 1


@given(st.floats(0.0, 1.0, width=32), st.integers(1, 16), st.sampled_from(["std", "otsu"]))
def test_a_flat_map_is_all_foreground(value: float, grid: int, rule: Rule) -> None:
    assert bool(foreground(torch.full((2, grid, grid), value), rule=rule).all())


@given(st.integers(0, 2**31), st.integers(0, 254), st.floats(-1.0, 1.0))
def test_one_level_of_eight_bits_is_no_spread(seed: int, level: int, threshold: float) -> None:
    levels = level + np.random.default_rng(seed).integers(0, 2, (2, 8, 8))
    saliency = torch.from_numpy(levels).float() / 255
    assert bool(foreground(saliency, threshold=threshold).all())


@pytest.mark.parametrize(("side", "found"), [(2, False), (3, False), (4, True), (5, True)])
def test_how_large_a_flat_object_must_be(side: int, found: bool) -> None:
    """A share p of ones: zeros fall below p - 0.6 sqrt(p (1 - p)) from p = 0.36 / 1.36 on."""
    saliency = torch.zeros(1, 7, 7)
    saliency[0, 1 : 1 + side, 1 : 1 + side] = 0.01  # a spread not far above what is flat
    assert found == (side * side / 49 > 0.36 / 1.36)
    expected = saliency > 0 if found else torch.ones(1, 7, 7, dtype=torch.bool)
    assert torch.equal(foreground(saliency), expected)
    assert torch.equal(foreground(saliency, threshold=0.0), saliency > 0)
    assert torch.equal(foreground(saliency, rule="otsu"), saliency > 0)


def slow_otsu(values: list[float]) -> set[int]:
    """The upper class by trying every threshold: the first of equally good ones."""
    best, upper = -1.0, set(range(len(values)))
    for threshold in sorted(set(values))[1:]:
        low = [value for value in values if value < threshold]
        high = [value for value in values if value >= threshold]
        gap = sum(high) / len(high) - sum(low) / len(low)
        between = len(low) * len(high) * gap**2
        if between > best * (1 + 1e-9):  # the order of a float64 sum
            best = between
            upper = {n for n, value in enumerate(values) if value >= threshold}
    return upper


@given(st.integers(0, 2**31), st.integers(2, 9), st.integers(2, 256))
def test_otsu_is_the_best_of_all_thresholds(seed: int, grid: int, levels: int) -> None:
    drawn = np.random.default_rng(seed).integers(0, levels, (3, grid, grid))
    saliency = (drawn / 255).astype(np.float32)
    got = foreground(saliency, rule="otsu")
    for view in range(3):
        values = [float(value) for value in saliency[view].flatten()]
        if np.std(values) > FLAT_STD:
            assert {int(n) for n in np.flatnonzero(got[view])} == slow_otsu(values)


@pytest.mark.parametrize("rule", ["std", "otsu"])
def test_numpy_and_torch_mark_the_same(rule: Rule) -> None:
    saliency = np.random.default_rng(0).random((20, 7, 7), dtype=np.float32)
    marked = foreground(torch.from_numpy(saliency), rule=rule)
    assert np.array_equal(foreground(saliency, rule=rule), marked.numpy())


def test_what_is_no_rule_is_named() -> None:
    with pytest.raises(InputError, match="unknown foreground rule 'mean': choose from std, otsu"):
        check_rule("mean", -0.6)
    with pytest.raises(InputError, match="foreground_threshold is nan"):
        check_rule("std", float("nan"))


@pytest.mark.parametrize(
    ("rows", "columns", "share", "separable"),
    [
        (slice(0), slice(0), 1, 0),  # flat
        (slice(16, 32), slice(8, 32), 1, 1),  # 2 x 3 of 49 patches: the threshold is below zero
        (slice(32), slice(56), 4 / 7, 1),  # mean 4 / 7, std 0.495, threshold 0.274
    ],
)
def test_statistics_by_hand(rows: slice, columns: slice, share: float, separable: float) -> None:
    levels = np.zeros((56, 56), np.uint8)
    levels[rows, columns] = 255
    p = (levels > 0).mean()
    found = (p, (p * (1 - p)) ** 0.5, share, separable)
    assert map_statistics(levels) == pytest.approx(found)


@pytest.mark.parametrize("as_kind", [np.asarray, torch.from_numpy])
def test_separability_is_the_greatest_share_of_the_variance_between_two_classes(
    as_kind: Callable[[Any], Any],
) -> None:
    grids = np.random.default_rng(0).random((20, 7, 7)).astype(np.float32)
    found = np.asarray(separability(as_kind(grids)))
    for grid, value in zip(grids.astype(np.float64), found, strict=True):
        upper = [grid >= least for least in np.unique(grid)[1:]]
        weight = [marked.mean() * (1 - marked.mean()) for marked in upper]
        apart = [grid[marked].mean() - grid[~marked].mean() for marked in upper]
        between = max(w * a**2 for w, a in zip(weight, apart, strict=True))
        assert value == pytest.approx(between / grid.var(), rel=1e-9)
    even = np.linspace(0, 1, 10_000).reshape(1, 100, 100)
    assert separability(even) == pytest.approx([0.75], abs=1e-6)  # halves: 1 - 1/4 of the variance
    level = np.full((1, 7, 7), 100 / 255)
    level[0, 0, 0] += 1 / 255  # what rounding may do to a map without spread
    assert separability(level) == 0
    assert separability(np.ones((1, 1, 1))) == 0
