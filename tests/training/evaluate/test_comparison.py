import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binomtest, norm, ttest_1samp

from pipeline.core.errors import InputError
from training.evaluate.comparison import (
    Difference,
    crossed_mean,
    mcnemar_p,
    paired_difference,
    seeds_difference,
)

NUM_IMAGES = 2000
SIMULATIONS = {1: 1000, 3: 2500}
"""By the number of seeds: a coverage of 95 % then has a standard error of 0.69 and 0.44 %."""
COVERED = (93.0, 97.0)
"""Percent: at least 2.9 standard errors on either side of 95."""


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
    of_seeds = seed_points / 100 / norm.pdf(np.mean(means))
    total = np.sqrt(1 + of_seeds**2)
    true = 100 * float(norm.cdf(means[1] / total) - norm.cdf(means[0] / total))

    def normal(*shape: int) -> NDArray[np.float32]:
        return generator.standard_normal(shape, dtype=np.float32)

    shared_V = 0.6**0.5 * normal(NUM_IMAGES)
    arms = []
    for mean in means:
        of_arm_V = shared_V + own**0.5 * normal(NUM_IMAGES)
        noise_SV = (0.4 - own) ** 0.5 * normal(num_seeds, NUM_IMAGES)
        arms.append(mean + of_seeds * normal(num_seeds, 1) + of_arm_V + noise_SV > 0)
    return arms, true


def test_the_interval_of_two_backbones_covers_the_truth() -> None:
    generator = np.random.default_rng(0)
    covered, wrong = 0, 0
    for number in range(SIMULATIONS[1]):
        (a_1V, b_1V), true = rights(generator, seed_points=0.0, own=0.0, num_seeds=1)
        found = paired_difference(a_1V[0], b_1V[0], seed=number)
        covered += found.low <= true <= found.high
        wrong += found.high < 0
    assert COVERED[0] <= 100 * covered / SIMULATIONS[1] <= COVERED[1]
    assert wrong == 0  # the truth is 4.9 points with a standard error of 1.2


@pytest.mark.parametrize(("seed_points", "own"), [(0.5, 0.1), (1.0, 0.1), (2.0, 0.1), (3.0, 0.1)])
def test_the_interval_of_three_seeds_covers_the_truth(seed_points: float, own: float) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(SIMULATIONS[3]):
        (a_SV, b_SV), true = rights(generator, seed_points=seed_points, own=own, num_seeds=3)
        found = seeds_difference(a_SV, b_SV)
        covered += found.low <= true <= found.high
    assert COVERED[0] <= 100 * covered / SIMULATIONS[3] <= COVERED[1]


def test_mcnemar_is_scipys_exact_test_on_the_same_table() -> None:
    generator = np.random.default_rng(2)
    a_V, b_V = generator.random(300) < 0.6, generator.random(300) < 0.7
    only_a, only_b = int((a_V & ~b_V).sum()), int((~a_V & b_V).sum())
    expected = binomtest(only_a, only_a + only_b, 0.5, alternative="two-sided").pvalue
    found = paired_difference(a_V, b_V, seed=0)
    assert found.p == expected == mcnemar_p(only_a, only_b)
    assert found.points == pytest.approx(100 * (only_b - only_a) / 300)
    swapped = paired_difference(b_V, a_V, seed=0)
    assert (swapped.points, swapped.p) == (-found.points, found.p)


def test_the_multinomial_is_the_bootstrap_over_images() -> None:
    generator = np.random.default_rng(3)
    a_V, b_V = generator.random(400) < 0.6, generator.random(400) < 0.7
    rows_RV = generator.integers(0, 400, (10_000, 400))
    drawn = 100 * (b_V[rows_RV].mean(axis=1) - a_V[rows_RV].mean(axis=1))
    found = paired_difference(a_V, b_V, seed=0)
    # Quantiles of 10,000 draws of a spread of 3.4 points; steps of a quarter of a point.
    expected = np.percentile(drawn, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.4)
    assert found == paired_difference(a_V, b_V, seed=0)


def test_without_an_effect_of_images_it_is_the_t_interval_of_the_seeds() -> None:
    x_SV = np.repeat([[0.1], [0.2], [0.25]], 50, axis=1)
    seeds = ttest_1samp([0.1, 0.2, 0.25], 0.0)
    interval = seeds.confidence_interval(0.95)
    expected = (0.55 / 3, interval.low, interval.high, seeds.pvalue)
    assert crossed_mean(x_SV) == pytest.approx(expected)


def test_without_an_effect_of_seeds_it_is_the_normal_interval_of_the_images() -> None:
    values_V = np.random.default_rng(4).random(500)
    mean, low, high, _ = crossed_mean(np.tile(values_V, (3, 1)))
    half = norm.isf(0.025) * values_V.std(ddof=1) / np.sqrt(500)
    assert (mean, low, high) == pytest.approx(
        (values_V.mean(), values_V.mean() - half, values_V.mean() + half)
    )


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


def test_bad_input() -> None:
    ones = np.ones((3, 10), dtype=np.bool_)
    with pytest.raises(InputError, match="3 and 2 seeds cannot be paired"):
        seeds_difference(ones, ones[:2])
    with pytest.raises(InputError, match="10 and 9 images cannot be paired"):
        seeds_difference(ones, ones[:, :9])
    with pytest.raises(InputError, match="comparison of 1 seeds: wanted 2"):
        seeds_difference(ones[:1], ones[:1])
    with pytest.raises(InputError, match="10 and 9 images"):
        paired_difference(ones[0], ones[0, :9], seed=0)
    with pytest.raises(InputError, match="comparison of 0 images"):
        paired_difference(ones[0, :0], ones[0, :0], seed=0)
    with pytest.raises(InputError, match="2 and 1 axes: wanted images"):
        paired_difference(ones, ones[0], seed=0)
