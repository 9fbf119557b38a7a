"""Numbers about a stored saliency map, for the manifest."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.foreground import foreground

GRID_SIDE = 7


@dataclass(frozen=True)
class MapStatistics:
    """Statistics of one map.

    Attributes:
        mean: of the map in [0, 1].
        std: population standard deviation of the map.
        foreground_share: share of a 7 x 7 grid's patches that are foreground by the paper's rule
            (`pipeline.saliency.foreground`); of the whole image, not of a view.
    """

    mean: float
    std: float
    foreground_share: float


def map_statistics(levels: NDArray[np.uint8]) -> MapStatistics:
    """Statistics of a stored map, uint8 [S, S]."""
    saliency = levels.astype(np.float64) / 255
    grid = np.asarray(
        cv2.resize(saliency, (GRID_SIDE, GRID_SIDE), interpolation=cv2.INTER_AREA), np.float64
    )
    share = float(foreground(grid).mean())
    return MapStatistics(float(saliency.mean()), float(saliency.std()), share)
