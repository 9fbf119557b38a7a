"""Figures of certainty against references, and their intervals' coverage."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from training.evaluate import calibration
from training.evaluate.calibration import calibration_error, error_auroc, estimate


def test_calibration_error_bin_by_bin() -> None:
    generator = np.random.default_rng(0)
    confidence = np.append(generator.uniform(0.3, 1, 199), 1.0)
    right, count = generator.random(200) < 0.7, generator.integers(0, 4, 200).astype(np.float64)
    total = 0.0
    for low in range(15):
        inside = [v for v in range(200) if low == min(14, int(confidence[v] * 15))]
        size = sum(count[v] for v in inside)
        if size:
            accuracy = sum(count[v] * right[v] for v in inside) / size
            total += size * abs(accuracy - sum(count[v] * confidence[v] for v in inside) / size)
    expected = total / count.sum()
    assert calibration_error(confidence, right, count) == pytest.approx(expected)
    # A quarter of the images is 0.4 too sure, the others are just as sure as they are right.
    confidence = np.array([0.9, 0.9, 0.75, 0.75, 0.75, 0.75, 1.0, 1.0])
    right = np.array([True, False, True, True, True, False, True, True])
    assert calibration_error(confidence, right, np.ones(8)) == pytest.approx(0.1)
    one_bin = np.array([0.94, 1.0]), np.array([True, False]), np.ones(2)
    assert calibration_error(*one_bin) == pytest.approx(0.47)


def test_auroc_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    wrong, count = generator.random(80) < 0.3, generator.integers(1, 4, 80).astype(np.float64)
    for levels in (5, 10_000):
        unsure = generator.integers(0, levels, 80) / levels
        expected = roc_auc_score(wrong, unsure, sample_weight=count)
        assert error_auroc(unsure, wrong, count) == pytest.approx(expected)
    for marks in (wrong | True, wrong & False):
        assert error_auroc(unsure, marks, count) is None
        assert estimate(error_auroc, unsure, marks, seed=0) == (0.5, (0.0, 1.0))


def test_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "RESAMPLES", 200)
    inside = {"auroc": 0, "error": 0, "small error": 0}
    for seed in range(100):
        generator = np.random.default_rng(seed)
        # Uncertainty of errors is uniform in [0.5, 1.5], of right answers in [0, 1]: 7 / 8.
        wrong = generator.random(150) < 0.4
        unsure = generator.random(150) + 0.5 * wrong
        figure, (low, high) = estimate(error_auroc, unsure, wrong, seed=seed)
        assert low <= figure <= high
        inside["auroc"] += low <= 7 / 8 <= high
        for name, num, true in (("error", 400, 0.15), ("small error", 100, 0.05)):
            confidence = generator.uniform(0.6, 1, num)
            right = generator.random(num) < confidence - true
            low, high = estimate(calibration_error, confidence, right, seed=seed)[1]
            inside[name] += low <= true <= high
    # 95 % of 100 draws, give or take: five standard errors of a binomial are 0.11.
    assert min(inside.values()) >= 84, inside
