import numpy as np
import pytest

from training.evaluate.intervals import mean_interval
from training.evaluate.score import bootstrap_interval


def test_of_zeros_and_ones_it_is_the_interval_of_an_accuracy() -> None:
    right = np.random.default_rng(0).random(400) < 0.7
    # Quantiles of 10,000 resamples are good to about a tenth of a standard error of 2.3 points.
    assert mean_interval(100.0 * right, seed=0) == pytest.approx(
        bootstrap_interval(right, seed=0), abs=0.3
    )


def test_it_covers() -> None:
    generator = np.random.default_rng(0)
    found = [mean_interval(generator.normal(3, 2, 100), seed=0) for _ in range(100)]
    covered = np.mean([low <= 3 <= high for low, high in found])
    # Five standard errors of a binomial of 100 draws are 0.11.
    assert covered >= 0.84
    # 1.96 * 2 / sqrt(100) to either side.
    widths = [high - low for low, high in found]
    assert np.mean(widths) == pytest.approx(0.784, rel=0.1)


def test_chunks_change_nothing_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = mean_interval(values, seed=0)
    assert whole == mean_interval(values, seed=0) != mean_interval(values, seed=1)
    monkeypatch.setattr("training.evaluate.intervals.CHUNK", 333)
    assert mean_interval(values, seed=0) == whole
    assert mean_interval(np.full(9, 2.5), seed=0) == (2.5, 2.5)
