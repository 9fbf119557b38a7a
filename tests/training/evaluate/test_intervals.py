from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_1samp

from pipeline.core.errors import InputError
from training.evaluate.intervals import (
    Difference,
    accuracy_interval,
    bootstrap_interval,
    crossed_mean,
    mean_interval,
    paired_difference,
    seeds_difference,
)

NUM_IMAGES = 2000
SIMULATIONS = 2500
"""A coverage of 95 % then has a standard error of 0.44 %."""
NORMAL = NormalDist()
COVERED = (93.0, 97.0)
"""Percent: 4.6 standard errors on either side of 95."""


def rights(
    generator: np.random.Generator, *, seed_points: float, own: float, num_seeds: int
) -> tuple[list[NDArray[np.bool_]], float]:
    """Both arms' outcomes, [S, V] each, and the true difference of the arms in points.

    A prediction is right where a normal variable is above 0: 0.6 of its variance within a run is
    the image's, the same in all runs, `own` the image's in all runs of one arm, the rest noise. Two
    backbones then disagree on about 30 % of the images, as networks of one recipe do. A seed
    moves a run by `seed_points`.
    """
    means = (0.20, 0.33)
    of_seeds = seed_points / 100 / NORMAL.pdf(sum(means) / 2)
    total = (1 + of_seeds**2) ** 0.5
    true = 100 * (NORMAL.cdf(means[1] / total) - NORMAL.cdf(means[0] / total))

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, dtype=np.float32)

    shared_V = 0.6**0.5 * normal(NUM_IMAGES)
    arms = []
    for mean in means:
        of_arm_V = shared_V + own**0.5 * normal(NUM_IMAGES)
        noise_SV = (0.4 - own) ** 0.5 * normal(num_seeds, NUM_IMAGES)
        arms.append(mean + of_seeds * normal(num_seeds, 1) + of_arm_V + noise_SV > 0)
    return arms, true


@pytest.mark.parametrize(
    ("seed_points", "own", "num_seeds"),
    [(0.0, 0.0, 1), (0.5, 0.1, 3), (1.0, 0.1, 3), (2.0, 0.1, 3), (3.0, 0.1, 3)],
)
def test_the_interval_of_a_difference_covers_the_truth(
    monkeypatch: pytest.MonkeyPatch, seed_points: float, own: float, num_seeds: int
) -> None:
    monkeypatch.setattr("training.evaluate.intervals.RESAMPLES", 1000)  # for speed
    generator = np.random.default_rng(1)
    covered, wrong = 0, 0
    for number in range(SIMULATIONS):
        (a_SV, b_SV), true = rights(
            generator, seed_points=seed_points, own=own, num_seeds=num_seeds
        )
        if num_seeds == 1:
            found = paired_difference(a_SV[0], b_SV[0], seed=number)
            wrong += found.high < 0
        else:
            found = seeds_difference(a_SV, b_SV)
        covered += found.low <= true <= found.high
    assert COVERED[0] <= 100 * covered / SIMULATIONS <= COVERED[1]
    assert wrong == 0  # of two backbones the truth is 4.9 points with a standard error of 1.2


def test_of_two_backbones_it_is_mcnemars_test_and_the_bootstrap_over_images() -> None:
    generator = np.random.default_rng(3)
    a_V, b_V = generator.random(400) < 0.6, generator.random(400) < 0.7
    only_a, only_b = int((a_V & ~b_V).sum()), int((~a_V & b_V).sum())
    found = paired_difference(a_V, b_V, seed=0)
    assert found.p == binomtest(only_a, only_a + only_b, 0.5, alternative="two-sided").pvalue
    assert found.points == pytest.approx(100 * (only_b - only_a) / 400)
    rows_RV = generator.integers(0, 400, (10_000, 400))
    drawn = 100 * (b_V[rows_RV].mean(axis=1) - a_V[rows_RV].mean(axis=1))
    # Quantiles of 10,000 draws of a spread of 3.4 points; steps of a quarter of a point.
    expected = np.percentile(drawn, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.4)
    assert found == paired_difference(a_V, b_V, seed=0)
    swapped = paired_difference(b_V, a_V, seed=0)
    assert (swapped.points, swapped.p) == (-found.points, found.p)


def test_with_one_effect_it_is_the_t_interval_of_seeds_or_the_normal_one_of_images() -> None:
    seeds = ttest_1samp([0.1, 0.2, 0.25], 0.0)
    interval = seeds.confidence_interval(0.95)
    x_SV = np.repeat([[0.1], [0.2], [0.25]], 50, axis=1)
    expected = (0.55 / 3, interval.low, interval.high, seeds.pvalue)
    assert crossed_mean(x_SV) == pytest.approx(expected)
    values_V = np.random.default_rng(4).random(500)
    half = NORMAL.inv_cdf(0.975) * values_V.std(ddof=1) / np.sqrt(500)
    ends = (values_V.mean(), values_V.mean() - half, values_V.mean() + half)
    assert crossed_mean(np.tile(values_V, (3, 1)))[:3] == pytest.approx(ends)


def test_p_is_where_the_interval_ends_at_zero() -> None:
    generator = np.random.default_rng(5)
    (a_SV, b_SV), _ = rights(generator, seed_points=1.0, own=0.1, num_seeds=3)
    found = seeds_difference(a_SV, b_SV)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    x_SV = b_SV.astype(float) - a_SV
    edge = x_SV - crossed_mean(x_SV)[1]  # moved so that the interval begins at 0
    assert crossed_mean(edge)[3] == pytest.approx(0.05)


def test_nothing_differs() -> None:
    same_V = np.random.default_rng(6).random(50) < 0.5
    none = Difference(points=0.0, low=0.0, high=0.0, p=1.0)
    assert paired_difference(same_V, same_V, seed=0) == none
    assert seeds_difference(np.stack([same_V] * 2), np.stack([same_V] * 2)) == none
    ones = np.ones((2, 50), dtype=np.bool_)
    assert seeds_difference(~ones, ones) == Difference(points=100.0, low=100.0, high=100.0, p=0.0)


def test_arms_that_cannot_be_paired() -> None:
    ones = np.ones((3, 10), dtype=np.bool_)
    for a, b in ((ones, ones[:2]), (ones, ones[:, :9]), (ones[:1], ones[:1])):
        with pytest.raises(InputError, match=r"cannot be paired: wanted .*, 2 or more"):
            seeds_difference(a, b)
    for a, b in ((ones[0, :0], ones[0, :0]), (ones[0], ones[0, :9]), (ones, ones[0])):
        with pytest.raises(InputError, match=r"cannot be paired: wanted .*, 1 or more"):
            paired_difference(a, b, seed=0)


def test_draws_of_labels_widen_the_interval() -> None:
    # Three draws that are right on 50, 60 and 70 %: the image's luck is the same in all of them.
    luck = np.random.default_rng(2).random(1000)
    right = np.stack([luck < share for share in (0.5, 0.6, 0.7)])
    # The t interval of 3 draws with a spread of 10 points: 4.30 * 10 / sqrt(3) to either side.
    assert np.diff(accuracy_interval(right, seed=0))[0] / 2 == pytest.approx(24.8, rel=0.1)
    assert np.diff(accuracy_interval(right[:1], seed=0))[0] < 7
    assert accuracy_interval(np.ones((3, 9), np.bool_), seed=0) == (100, 100)


def test_the_binomial_and_the_means_are_the_bootstrap() -> None:
    right = np.arange(200) % 3 == 0
    generator = np.random.default_rng(1)
    drawn = 100 * right[generator.integers(0, 200, (10_000, 200))].mean(axis=1)
    expected = np.percentile(drawn, [2.5, 97.5])
    # Quantiles of 10,000 draws of a spread of 3.3 points; steps of half a point.
    for found in (bootstrap_interval(right, seed=0), mean_interval(100.0 * right, seed=0)):
        assert found == pytest.approx(tuple(expected), abs=0.51)
    assert bootstrap_interval(right, seed=3) == bootstrap_interval(right, seed=3)
    assert bootstrap_interval(np.ones(10), seed=0) == (100.0, 100.0)


def test_the_interval_of_a_mean_covers(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(3, 2, (100, 100))
    found = [mean_interval(row, seed=0) for row in values]
    # Five standard errors of a binomial of 100 draws are 0.11.
    assert np.mean([low <= 3 <= high for low, high in found]) >= 0.84
    # 1.96 * 2 / sqrt(100) to either side.
    assert np.mean([high - low for low, high in found]) == pytest.approx(0.784, rel=0.1)
    assert found[0] != mean_interval(values[0], seed=1)
    monkeypatch.setattr("training.evaluate.intervals.CHUNK", 333)
    assert mean_interval(values[0], seed=0) == found[0], "chunks change nothing"
    assert mean_interval(np.full(9, 2.5), seed=0) == (2.5, 2.5)
