"""From predicted classes to figures: top-1, mean per-class accuracy, and an interval.

Shapes: V validation images, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

RESAMPLES = 10_000
COVERAGE = 95.0
"""Of the interval, in percent."""


class Score(NamedTuple):
    """How good predictions are, in percent."""

    top1: float
    interval: tuple[float, float]
    """Of top1: what other validation images of the same kind would have given."""
    mean_per_class: float
    """Mean of the classes' own accuracies: the rare count as much as the frequent."""


def score(predicted_V: Tensor, labels_V: Tensor, *, num_classes: int, seed: int) -> Score:
    """Score predictions.

    Args:
        predicted_V: int64 [V], on any device.
        labels_V: int64 [V], in 0 .. K - 1.
        num_classes: K; a class without images is left out of the mean.
        seed: of the bootstrap.
    """
    right_V = (predicted_V.cpu() == labels_V.cpu()).numpy()
    labels = labels_V.cpu().numpy()
    counts_K = np.bincount(labels, minlength=num_classes)
    right_K = np.bincount(labels, weights=right_V, minlength=num_classes)
    there_K = counts_K > 0
    return Score(
        top1=100 * float(right_V.mean()),
        interval=bootstrap_interval(right_V, seed=seed),
        mean_per_class=100 * float((right_K[there_K] / counts_K[there_K]).mean()),
    )


def bootstrap_interval(right_V: NDArray[np.bool_], *, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's interval of a mean of zeros and ones, in percent.

    Drawing V images with replacement draws the number of right ones from a binomial distribution
    of V trials with the found share: the resamples need no images.

    Args:
        right_V: whether each prediction is right.
        seed: of the resamples.
    """
    total = len(right_V)
    drawn = np.random.default_rng(seed).binomial(total, right_V.mean(), size=RESAMPLES) / total
    tail = (100 - COVERAGE) / 2
    low, high = np.percentile(100 * drawn, [tail, 100 - tail])
    return float(low), float(high)
