"""From predicted classes to figures: top-1, mean per-class accuracy, and an interval.

Shapes: V validation images, D draws of the training labels, K classes.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.evaluate.comparison import RESAMPLES, TAIL, crossed_mean


class Score(NamedTuple):
    """How good predictions are, in percent."""

    top1: float
    interval: tuple[float, float]
    """Of top1: what other validation images, and other draws of the labels, would have given."""
    mean_per_class: float
    """Mean of the classes' own accuracies: the rare count as much as the frequent."""


def score(predicted: Tensor, labels_V: Tensor, *, num_classes: int, seed: int) -> Score:
    """Score predictions.

    The interval of one draw is the bootstrap's over images, that of several is `crossed_mean`'s
    over draws and images.

    Args:
        predicted: int64 [V], or [D, V] of several draws, on any device.
        labels_V: int64 [V], in 0 .. K - 1.
        num_classes: K; a class without images is left out of the mean.
        seed: of the bootstrap.
    """
    right_DV = (torch.atleast_2d(predicted.cpu()) == labels_V.cpu()).numpy()
    labels, right_V = labels_V.cpu().numpy(), right_DV.mean(axis=0)
    counts_K = np.bincount(labels, minlength=num_classes)
    right_K = np.bincount(labels, weights=right_V, minlength=num_classes)
    there_K = counts_K > 0
    return Score(
        top1=100 * float(right_V.mean()),
        interval=(
            bootstrap_interval(right_DV[0], seed=seed)
            if len(right_DV) == 1
            else draws_interval(right_DV)
        ),
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
    low, high = np.quantile(100 * drawn, [TAIL, 1 - TAIL])
    return float(low), float(high)


def draws_interval(right_DV: NDArray[np.bool_]) -> tuple[float, float]:
    """The interval of `crossed_mean` over draws and images, in percent, within 0 to 100."""
    _, low, high, _ = crossed_mean(right_DV)
    return max(0.0, 100 * low), min(100.0, 100 * high)
