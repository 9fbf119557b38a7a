"""Agreement of foregrounds: by hand, against scikit-learn, and at chance."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, jaccard_score

from training.evaluate.fidelity import agreement_of, chance_iou


def test_agreement_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    own = rng.random((12, 4, 4)) < 0.4
    stored = own ^ (rng.random((12, 4, 4)) < 0.2)
    stored[:, 0, 0] = own[:, 0, 0] = True
    image_of_view = np.arange(12) % 4
    found = agreement_of(stored, own, image_of_view)
    iou = [jaccard_score(a.ravel(), b.ravel()) for a, b in zip(own, stored, strict=True)]
    assert found.iou == pytest.approx(np.mean(iou))
    assert found.kappa == pytest.approx(cohen_kappa_score(own.ravel(), stored.ravel()))
    by_image = [np.mean(iou[image::4]) for image in range(4)]
    error = 1.96 * np.std(by_image, ddof=1) / 2
    assert found.interval == pytest.approx((found.iou - error, found.iou + error))
    assert (found.num_images, found.num_views) == (4, 12)
    same = agreement_of(own, own, image_of_view)
    assert (same.iou, same.kappa) == (1, 1)
    assert same.chance < 1


def test_chance_is_that_of_random_patches() -> None:
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(20_000):
        first, second = (set(rng.permutation(49)[:count]) for count in (30, 20))
        drawn.append(len(first & second) / len(first | second))
    # Four standard errors of the simulated mean.
    assert chance_iou(30, 20, 49) == pytest.approx(
        np.mean(drawn), abs=4 * float(np.std(drawn)) / math.sqrt(len(drawn))
    )
    assert chance_iou(49, 49, 49) == 1
    assert chance_iou(1, 1, 2) == 0.5
