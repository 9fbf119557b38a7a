"""The measures against scikit-learn and against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    fbeta_score,
    jaccard_score,
    precision_recall_fscore_support,
    roc_auc_score,
)

from pipeline.saliency.interface import to_grid
from pipeline.saliency.quality import (
    MapQuality,
    map_quality,
    max_f_measure,
    precision_recall,
    ranking_auc,
    summarise,
    top_iou,
)


@settings(deadline=None)  # the first call of scikit-learn takes long
@given(st.integers(0, 2**32 - 1), st.integers(1, 48), st.integers(2, 30))
def test_auc_and_iou_are_those_of_scikit_learn(seed: int, num_positive: int, num: int) -> None:
    """Few different values: many ties; for IoU none."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, num, (7, 7)) / num
    positive = np.zeros(49, bool)
    positive[rng.permutation(49)[:num_positive]] = True
    expected = roc_auc_score(positive, scores.ravel())
    assert ranking_auc(scores, positive.reshape(7, 7)) == pytest.approx(expected, abs=1e-12)
    ranked = rng.permutation(49).astype(np.float64)
    expected = jaccard_score(positive, ranked >= 49 - num_positive)
    assert top_iou(ranked, positive) == pytest.approx(expected, abs=1e-12)


def test_ties_are_shared_out() -> None:
    positive = np.array([True, True, False, False, False, False])
    # one sure hit, and one place for four tied patches of which one is positive
    assert top_iou(np.array([9, 5, 5, 5, 5, 1]), positive) == pytest.approx(1.25 / 2.75)
    # nothing is known: k * k / n patches are hit
    uniform = np.full(6, 0.5)
    assert top_iou(uniform, positive) == pytest.approx((2 / 3) / (4 - 2 / 3))
    assert ranking_auc(uniform, positive) == 0.5


def test_without_positives_nothing_is_measured() -> None:
    scores, none, every = np.arange(4.0), np.zeros(4, bool), np.ones(4, bool)
    assert ranking_auc(scores, none) is None
    assert ranking_auc(scores, every) is None
    assert top_iou(scores, none) is None
    assert top_iou(scores, every) == 1.0
    assert precision_recall(np.zeros((2, 2), np.float32), np.zeros((2, 2), bool)) is None


def test_patches_are_averages_over_area() -> None:
    mask = np.zeros((70, 140), np.float32)
    mask[10:20, 20:32] = 1  # a patch is 10 x 20: 60 % of one
    mask[40:50, 60:69] = 1  # 45 % of another
    grid = to_grid(mask, 7)
    assert (grid[1, 1], grid[4, 3]) == pytest.approx((0.6, 0.45))
    quality = map_quality(mask, mask > 0)
    assert (quality.auc, quality.iou, quality.iou_56, quality.mae) == (1, 1, 1, 0)
    assert quality.area == pytest.approx((10 * 12 + 10 * 9) / (70 * 140))
    # On 56 cells a quarter of the object's place is another than its patch: 6 of 8 columns.
    object_56, map_56 = np.zeros((56, 56), np.float32), np.zeros((56, 56), np.float32)
    object_56[8:16, 8:16], map_56[8:16, 10:18] = 1, 1
    assert map_quality(map_56, object_56 > 0).iou_56 == pytest.approx(6 / 10)


def test_curves_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.3
    levels = 15 * (rng.integers(0, 14, (20, 30)) + 4 * mask).astype(np.float32)
    curve = precision_recall(levels / np.float32(255), mask)
    assert curve is not None
    for level in (0, 1, 105, 210, 255):
        precision, recall, _, _ = precision_recall_fscore_support(
            mask.ravel(), (levels >= level).ravel(), average="binary", zero_division=0
        )
        assert curve[:, level].tolist() == pytest.approx([precision, recall])
    best = max(
        fbeta_score(mask.ravel(), (levels >= t).ravel(), beta=0.3**0.5, zero_division=0)
        for t in range(0, 256, 15)
    )
    assert max_f_measure(curve) == pytest.approx(best)


def made(**changes: object) -> MapQuality:
    given = {"auc": 1, "iou": 1, "mae": 0, "curve": np.ones((2, 256)), "iou_56": 1, "area": 0.05}
    given["is_clear"] = True
    return MapQuality(**(given | changes))  # type: ignore[arg-type]


def test_f_is_taken_of_the_mean_curve() -> None:
    """Two images whose own best thresholds differ: 1 each, but no threshold fits both."""
    low, high = np.zeros((2, 256)), np.zeros((2, 256))
    low[:, :100] = 1
    high[:, 100:] = 1
    both = [made(curve=curve) for curve in (low, high)]
    assert summarise(both[:1]).max_f == pytest.approx(1)
    assert summarise(both).max_f == pytest.approx(0.5)


def test_the_mean_leaves_out_what_is_not_defined() -> None:
    counted = made(auc=0.8, iou=0.5, mae=0.2, iou_56=0.6, area=0.1)
    empty = made(auc=None, iou=None, mae=0.4, curve=None, iou_56=None)
    mean = summarise([counted, empty])
    assert (mean.auc, mean.iou, mean.num_images, mean.num_counted) == (0.8, 0.5, 2, 1)
    assert mean.iou_56 == 0.6
    assert np.isnan(mean.small_56), "a tenth is not small"
    small = summarise([counted, made(iou_56=0.2, area=0.09), empty])
    assert (small.iou_56, small.small_56) == pytest.approx((0.4, 0.2))
    assert (mean.max_f, mean.mae) == pytest.approx((1, 0.3))
    parted = summarise([counted, made(is_clear=False), counted, empty])
    assert (parted.clear, parted.iou_clear, parted.iou_unclear) == (0.75, 0.5, 1)
    nothing = summarise([empty])
    assert np.isnan([nothing.auc, nothing.iou, nothing.max_f]).all()


def test_a_map_of_any_size_covers_the_whole_image() -> None:
    mask = np.zeros((60, 90), bool)
    mask[:, :30] = True
    small = np.zeros((4, 9), np.float32)
    small[:, :3] = 1
    quality = map_quality(small, mask)
    assert (quality.auc, quality.iou) == (1, 1)
    assert quality.mae < 0.06  # the edge is smoothed
    flat = map_quality(np.full((1, 1), 0.5, np.float32), mask)
    assert (flat.auc, flat.mae) == pytest.approx((0.5, 0.5))
