"""Whether certainty goes with being right, with bootstrap intervals over images.

Every figure takes the count of each image in a resample. Shapes: V images.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.evaluate.intervals import percentile_interval

BINS = 15
RESAMPLES = 1_000
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def calibration_error(confidence_V: Floats, right_V: Bools, count_V: Floats) -> float:
    """The mean over images of | accuracy - confidence | of the image's bin, 15 of equal width.

    Confidence is the probability of the predicted class (Guo et al., arXiv 1706.04599, section 2).
    """
    bin_V = np.minimum((confidence_V * BINS).astype(np.int64), BINS - 1)
    gap = np.bincount(bin_V, weights=count_V * (right_V - confidence_V))
    return float(np.abs(gap).sum() / count_V.sum())


def error_auroc(uncertainty_V: Floats, wrong_V: Bools, count_V: Floats) -> float | None:
    """Probability that an error is less certain than a right answer, ties half; None without."""
    level_V = np.unique(uncertainty_V, return_inverse=True)[1]
    wrong, right = (np.bincount(level_V, weights=count_V * kind) for kind in (wrong_V, ~wrong_V))
    pairs = wrong.sum() * right.sum()
    return float((wrong * (right.cumsum() - right / 2)).sum() / pairs) if pairs else None


def estimate(
    figure: Callable[[Floats, Bools, Floats], float | None],
    values_V: Floats,
    marks_V: Bools,
    *,
    seed: int,
) -> tuple[float, tuple[float, float]]:
    """One of the figures and its interval, within 0 to 1, by the basic bootstrap.

    That is the percentile interval mirrored at the figure: a resample's calibration error is larger
    than the figure by about as much as that is larger than the true one. Of a true one of 0.15 it
    covers 90 of 100, of a true one of 0 only 74 (400 images). Where the figure is not defined
    nothing is known: 0.5, from 0 to 1.
    """
    num, generator = len(values_V), np.random.default_rng(seed)
    found = figure(values_V, marks_V, np.ones(num))
    if found is None:
        return 0.5, (0.0, 1.0)
    counts = (generator.multinomial(num, [1 / num] * num) for _ in range(RESAMPLES))
    drawn = (figure(values_V, marks_V, one.astype(np.float64)) for one in counts)
    low, high = percentile_interval([one for one in drawn if one is not None])
    return found, (max(0.0, 2 * found - high), min(1.0, max(0.0, 2 * found - low)))
