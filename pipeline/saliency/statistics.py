"""Numbers about a stored saliency map, for the manifest."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.foreground import foreground

GRID_SIDE = 7


class MapStatistics(NamedTuple):
    """Mean and population standard deviation of a map in [0, 1], and its foreground.

    `foreground_share` is the share of the patches of a 7 x 7 grid over the whole image that are
    foreground by the paper's rule.
    """

    mean: float
    std: float
    foreground_share: float


def map_statistics(levels: NDArray[np.uint8]) -> MapStatistics:
    """Statistics of a stored map, uint8 [S, S]."""
    saliency = levels.astype(np.float64) / 255
    grid = cv2.resize(saliency, (GRID_SIDE, GRID_SIDE), interpolation=cv2.INTER_AREA)
    share = foreground(np.asarray(grid, np.float64)).mean()
    return MapStatistics(float(saliency.mean()), float(saliency.std()), float(share))
