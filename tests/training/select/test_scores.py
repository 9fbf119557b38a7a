"""Scores against sums written by hand, and the choice against every other one."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.select.greedy import choose_images
from training.select.scores import cosine_scores, image_losses


def unit_rows(num: int, size: int = 6) -> torch.Tensor:
    return F.normalize(torch.randn(num, size), dim=1)


def test_the_five_nearest_of_the_target_count() -> None:
    pool, target = unit_rows(7), unit_rows(9)
    for shown in (target, target[:3]):
        scores = cosine_scores(pool, shown)
        for number, row in enumerate(pool.tolist()):
            cosines = sorted(np.dot(row, one) for one in shown.tolist())[-5:]
            assert float(scores[number]) == pytest.approx(np.mean(cosines), abs=1e-6)


def test_the_loss_of_an_image_leaves_its_own_view_out_of_the_bank() -> None:
    query, key, bank = unit_rows(4), unit_rows(4), unit_rows(5)
    own = torch.zeros(4, 5, dtype=torch.bool)
    own[1, 3] = True
    losses = image_losses(query, key, bank, own, temperature=0.2)
    for m in range(4):
        logits = [float(query[m].double() @ bank[b].double()) / 0.2 for b in range(5)]
        positive = float(query[m].double() @ key[m].double()) / 0.2
        total = math.exp(positive) + sum(math.exp(x) for b, x in enumerate(logits) if not own[m, b])
        assert float(losses[m]) == pytest.approx(math.log(total) - positive, abs=1e-6)
    same = unit_rows(1).expand(5, -1)  # equal similarities
    equal = image_losses(same[:4], same[:4], same, own, temperature=0.2)
    assert equal.tolist() == pytest.approx([math.log(6), math.log(5), math.log(6), math.log(6)])


def objective(scores: np.ndarray, clusters: np.ndarray, chosen: tuple[int, ...]) -> float:
    totals = np.zeros(clusters.max() + 1)
    for number in chosen:
        totals[clusters[number]] += max(0.0, scores[number] - scores.mean())
    return float(np.sqrt(totals).sum())


@pytest.mark.parametrize("seed", range(12))
def test_greedy_is_as_good_as_the_best_of_all_choices(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores, clusters = generator.normal(size=9), generator.integers(0, 3, 9)
    for count in (1, 3, 5):
        chosen = tuple(choose_images(scores, clusters, count).tolist())
        assert list(chosen) == sorted(set(chosen))
        assert len(chosen) == count
        every = itertools.combinations(range(9), count)
        best = max(objective(scores, clusters, one) for one in every)
        assert objective(scores, clusters, chosen) == pytest.approx(best, abs=1e-12)


def test_one_cluster_gives_the_greatest_scores_and_many_spread_the_choice() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.2])
    one, two = np.zeros(8, dtype=np.int64), np.array([0, 0, 0, 1, 1, 1, 0, 1])
    assert choose_images(scores, one, 3).tolist() == [0, 1, 2]
    assert choose_images(scores, two, 2).tolist() == [0, 3], "not 0 and 1, of one cluster"
    # The rest scores below the mean: by score, then by number.
    assert choose_images(scores, two, 5).tolist() == [0, 1, 2, 3, 6]
    assert choose_images(scores, two, 6).tolist() == [0, 1, 2, 3, 5, 6]
    assert choose_images(scores, two, 8).tolist() == list(range(8))
