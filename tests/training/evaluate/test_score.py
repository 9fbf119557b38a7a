import numpy as np
import pytest
import torch

from training.evaluate.score import bootstrap_interval, score


def test_by_hand() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 3])
    predicted = torch.tensor([0, 0, 0, 1, 1, 0, 3])
    found = score(predicted, labels, num_classes=4, seed=0)
    assert found.top1 == pytest.approx(100 * 5 / 7)
    # Class 2 has no images; the others have 3 of 4, 1 of 2 and 1 of 1.
    assert found.mean_per_class == pytest.approx(100 * (0.75 + 0.5 + 1) / 3)
    low, high = found.interval
    assert low < found.top1 < high


def test_the_binomial_is_the_bootstrap() -> None:
    right = np.arange(200) % 3 == 0
    generator = np.random.default_rng(1)
    drawn = [100 * right[generator.integers(0, 200, 200)].mean() for _ in range(10_000)]
    expected = np.percentile(drawn, [2.5, 97.5])
    # Quantiles of 10,000 draws of a spread of 3.3 points; steps of half a point.
    assert bootstrap_interval(right, seed=0) == pytest.approx(tuple(expected), abs=0.51)
    spread = 100 * np.sqrt(right.mean() * (1 - right.mean()) / 200)
    low, high = bootstrap_interval(right, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.08)


def test_draws_of_labels_widen_the_interval() -> None:
    generator = np.random.default_rng(2)
    labels = torch.zeros(1000, dtype=torch.int64)
    # Three draws that are right on 50, 60 and 70 %: the image's luck is the same in all of them.
    luck = generator.random(1000)
    predicted = torch.from_numpy(np.stack([luck > share for share in (0.5, 0.6, 0.7)])).long()
    found = score(predicted, labels, num_classes=1, seed=0)
    assert found.top1 == pytest.approx(100 * float((predicted == 0).double().mean()))
    low, high = found.interval
    # The t interval of 3 draws with a spread of 10 points: 4.30 * 10 / sqrt(3) to either side.
    assert (high - low) / 2 == pytest.approx(24.8, rel=0.1)
    alone = score(predicted[1], labels, num_classes=1, seed=0).interval
    assert alone[1] - alone[0] < 7
    assert score(torch.zeros(3, 9).long(), labels[:9], num_classes=1, seed=0).interval == (100, 100)


def test_seeded_and_certain_where_all_are_right() -> None:
    right = np.arange(50) % 2 == 0
    assert bootstrap_interval(right, seed=3) == bootstrap_interval(right, seed=3)
    assert bootstrap_interval(np.ones(10, dtype=np.bool_), seed=0) == (100.0, 100.0)
