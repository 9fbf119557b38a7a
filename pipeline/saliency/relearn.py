"""Learn from a first map what the object and what the background of this one image look like.

A first map is right about most of an image. The superpixels that it is sure of train a small
classifier for this image alone, which then says what the others are: the idea of bootstrap
learning (Tong et al., CVPR 2015), here with one Gaussian for the object and one for the background
instead of a support vector machine. Place is a feature, so the object's own centre, wherever it
lies, draws what is near it.

Shapes: N superpixels, D features.
"""

import numpy as np

from pipeline.saliency.cues import stretch, weighted_gaussian
from pipeline.saliency.superpixels import Floats, Superpixels

SURE = 3.0
"""Exponent that makes weights of a map: the sure ones teach, the others learn."""
PLACE = 15.0
"""How many Lab units the width or height of the image is worth."""
SOFTNESS = 4.0
"""By what the log likelihood ratio is divided: features and neighbours are not independent."""
SHARE = 0.5
"""Weight of the classifier against the map that taught it."""


def relearn(
    saliency_N: Floats,
    features_ND: Floats,
    pieces: Superpixels,
    *,
    prior_N: Floats,
    rounds: int,
    floor: float,
) -> Floats:
    """Refine the map of superpixels.

    Args:
        saliency_N: float64 in [0, 1], with 0 and 1 in it.
        features_ND: float64.
        pieces: the superpixels.
        prior_N: float64 > 0, how likely the object is here: weighs who teaches the object's
            Gaussian, not the map itself.
        rounds: how often.
        floor: added to variances.

    Returns:
        float64 [N] in [0, 1].
    """
    placed = np.concatenate([features_ND, PLACE * pieces.centre_N2], axis=1)
    for _ in range(rounds):
        teachers = saliency_N * prior_N
        of_object = (teachers / teachers.max()) ** SURE * pieces.area_N
        of_background = (1 - saliency_N) ** SURE * pieces.area_N
        to_object, object_volume = weighted_gaussian(placed, of_object, floor)
        to_background, background_volume = weighted_gaussian(placed, of_background, floor)
        log_ratio = (to_background - to_object + background_volume - object_volume) / 2
        is_object = 1 / (1 + np.exp(-np.clip(log_ratio / SOFTNESS, -50, 50)))
        saliency_N = stretch(saliency_N + SHARE * is_object)
    return saliency_N
