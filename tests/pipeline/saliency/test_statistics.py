"""The manifest's numbers about a map, by hand."""

import numpy as np
import pytest

from pipeline.saliency.statistics import map_statistics


def test_a_map_without_spread_is_all_foreground() -> None:
    for level in (0, 128, 255):
        statistics = map_statistics(np.full((56, 56), level, np.uint8))
        assert statistics.foreground_share == 1.0
        assert statistics.mean == pytest.approx(level / 255)
        assert statistics.std == pytest.approx(0, abs=1e-12)


def test_the_share_counts_patches() -> None:
    levels = np.zeros((56, 56), np.uint8)
    levels[16:32, 8:32] = 200  # 2 x 3 patches of 8 x 8 cells
    statistics = map_statistics(levels)
    # mean 0.096, std 0.257: the threshold, -0.058, is below zero, so all 49 are foreground
    assert statistics.foreground_share == 1.0
    assert statistics.mean == pytest.approx(200 / 255 * 6 / 49)
    half = np.zeros((56, 56), np.uint8)
    half[:32] = 255  # 4 of 7 rows: mean 4/7, std 0.495, threshold 0.274
    assert map_statistics(half).foreground_share == pytest.approx(4 / 7)
