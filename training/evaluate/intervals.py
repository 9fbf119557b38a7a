"""Bootstrap intervals of means over images.

Shapes: V images, R resamples.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluate.comparison import RESAMPLES, TAIL

CHUNK = 2**22
"""Images drawn at once: 32 MiB of indices."""


def mean_interval(values_V: ArrayLike, *, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of a mean, in the unit of the values.

    Differences of two figures of the same images are paired: pass the images' differences.

    Args:
        values_V: one value per image.
        seed: of the resamples.
    """
    values = np.asarray(values_V, dtype=np.float64)
    generator = np.random.default_rng(seed)
    step = max(1, CHUNK // len(values))
    means_R = [
        values[generator.integers(len(values), size=(rows, len(values)))].mean(axis=1)
        for rows in (min(step, RESAMPLES - first) for first in range(0, RESAMPLES, step))
    ]
    return percentile_interval(np.concatenate(means_R))


def percentile_interval(figures_R: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of the figures of resamples."""
    low, high = np.quantile(figures_R, [TAIL, 1 - TAIL])
    return float(low), float(high)
