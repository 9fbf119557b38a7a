"""How far average precision depends on which images were scored: a bootstrap over images.

The matches of detections and boxes stay as they are; an image that is drawn twice counts twice.

Shapes: T overlaps, I images, D detections of a class, R resamples.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads off the precision."""


class ClassMatches(NamedTuple):
    """The detections of one class, the highest score first.

    A detection that is matched to an ignored object is neither hit nor miss.
    """

    wanted_I: NDArray[np.int64]
    """Boxes to find in every image."""
    image_D: NDArray[np.int64]
    """Image of every detection."""
    hit_TD: NDArray[np.bool_]
    miss_TD: NDArray[np.bool_]


def resampled_precisions(
    classes: Sequence[ClassMatches], num_images: int, *, seed: int
) -> NDArray[np.float64]:
    """Average precision per overlap of resampled images, the mean over classes, in [0, 1].

    Args:
        classes: that have a box to find.
        num_images: I.
        seed: of the resamples.

    Returns:
        [R, T]; a class that a resample does not have is left out of its mean.
    """
    draw = np.random.default_rng(seed)
    shares_I = np.full(num_images, 1 / num_images)
    weights_RI = draw.multinomial(num_images, shares_I, size=RESAMPLES)
    per_class = np.stack([weighted_precision(one, weights_RI) for one in classes])
    there = ~np.isnan(per_class)
    counts = there.sum(axis=0)
    sums = np.where(there, per_class, 0.0).sum(axis=0)
    mean_RT: NDArray[np.float64] = sums / np.maximum(counts, 1)
    return mean_RT


def weighted_precision(matches: ClassMatches, weights_RI: NDArray[np.int64]) -> NDArray[np.float64]:
    """Average precision of one class where image i counts `weights_RI[r, i]` times.

    Returns:
        [R, T]; nan where no box is to be found.
    """
    wanted_R = weights_RI @ matches.wanted_I
    weights_RD = weights_RI[:, matches.image_D]
    found_RT = np.full((len(weights_RI), len(matches.hit_TD)), np.nan)
    for t, (hit_D, miss_D) in enumerate(zip(matches.hit_TD, matches.miss_TD, strict=True)):
        found_RT[wanted_R > 0, t] = 0.0
        if not hit_D.any():  # as with most of many classes
            continue
        hits_RD = np.cumsum(weights_RD * hit_D, axis=1)
        misses_RD = np.cumsum(weights_RD * miss_D, axis=1)
        precision_RD = hits_RD / np.maximum(hits_RD + misses_RD, 1)
        # The precision at a recall is the best one at that recall or any above it.
        best_RD = np.maximum.accumulate(precision_RD[:, ::-1], axis=1)[:, ::-1]
        best_RD = np.pad(best_RD, ((0, 0), (0, 1)))  # a recall that is never reached: 0
        for r in np.flatnonzero(wanted_R):
            at = np.searchsorted(hits_RD[r] / wanted_R[r], RECALLS, side="left")
            found_RT[r, t] = best_RD[r, at].mean()
    return found_RT
