"""`boundary`: what is unlike the image's border is salient. No labels, no weights.

1. The image is cut into superpixels, each with eight features of colour and texture
   (`superpixels`).
2. Two cues say how unlike the border each is: the distance to the Gaussian of the side that it
   resembles most, and the minimum barrier distance (Strand et al., CVIU 2013; for saliency Zhang
   et al., ICCV 2015). They fail on different images, so their sum, the first map, is better than
   either.
3. The first map teaches a classifier for this one image (`relearn`), which corrects it three
   times. The centre prior weighs only which superpixels teach it what the object looks like: a
   map is never multiplied by the prior.

What each part is worth stands in README.md. Sums are `einsum`, not `@`: a threaded BLAS may add in
another order on another machine.

Shapes: N superpixels, D features, K neighbours.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import (
    Image,
    Map,
    SaliencySource,
    flat_map,
    is_flat,
    shrink,
    spread_out,
)
from pipeline.saliency.superpixels import Floats, Superpixels, appearance, cut

MIN_SIDE = 16
"""Smaller images are enlarged before they are cut."""
VARIANCE_FLOOR = 4.0
"""Added to variances (Lab units squared), so that noise does not stand out from what is even."""
STRANGE = 4.0
"""Standard deviations from all other sides at which a side's own superpixel is doubted."""
LEAST_TRUST = 1e-3
BARRIER_SWEEPS = 10
SURE = 3.0
"""Exponent that turns a map into weights: superpixels with sure values teach."""
PLACE = 15.0
"""How many Lab units the width or height of the image is worth."""
SOFTNESS = 4.0
"""Divisor of the log likelihood ratio: features and neighbours are not independent."""
SHARE = 0.5
"""Weight of the classifier against the map that taught it."""


@dataclass(frozen=True, kw_only=True)
class Boundary(SaliencySource):
    """Unlike the border in colour and texture, then learned again from the image itself.

    Attributes:
        side: shorter side in pixels at which the image is cut into superpixels.
        num_superpixels: about how many.
        detail_side: shorter side in pixels at which texture is measured.
        texture: how many Lab units a texture e times as strong is worth; 0 is colour alone.
        rounds: how often object and background are learned again; 0 is never.
        prior_sigma: of a Gaussian at the image's centre that weighs which superpixels teach what
            the object looks like, in halves of a side; 0 is no prior.
    """

    any_channels = True

    side: int = 96
    num_superpixels: int = 160
    detail_side: int = 224
    texture: float = 12.0
    rounds: int = 3
    prior_sigma: float = 0.7

    def __post_init__(self) -> None:
        sides_fit = MIN_SIDE <= self.side <= 512 and MIN_SIDE <= self.detail_side <= 2048
        if not sides_fit or not 16 <= self.num_superpixels <= 1000:
            raise InputError(
                f"saliency boundary wants a side in {MIN_SIDE}..512, a detail_side in "
                f"{MIN_SIDE}..2048 and num_superpixels in 16..1000, got {self}"
            )
        if not 0 <= self.texture <= 100 or not 0 <= self.rounds <= 10 or not self.prior_sigma >= 0:
            raise InputError(
                "saliency boundary wants texture in 0..100, rounds in 0..10 and a prior_sigma that "
                f"is not negative, got {self}"
            )

    def map_image(self, image: Image) -> Map:
        """Compute the map of one image."""
        small = _enlarge(shrink(image, self.side))
        if is_flat(small):
            return flat_map()
        pieces = cut(small, self.num_superpixels)
        detail = shrink(image, self.detail_side)
        features = appearance(detail, small, pieces, self.texture)
        cues = (border_distance(features, pieces), barrier_distance(features, pieces))
        saliency = stretch(stretch(cues[0]) + stretch(cues[1]))
        if saliency.any():  # else nothing stands out that could teach
            saliency = relearn(saliency, features, pieces, self._prior(pieces), self.rounds)
        return spread_out(pieces.paint(saliency))

    def _prior(self, pieces: Superpixels) -> Floats:
        if not self.prior_sigma:
            return np.ones(len(pieces))
        squared = ((2 * pieces.centre_N2 - 1) ** 2).sum(axis=1)
        # Far out a narrow Gaussian is 0 in floating point, and some superpixel has to teach.
        return np.asarray(np.exp(-np.minimum(squared / (2 * self.prior_sigma**2), 100.0)))


def _enlarge(image: Image) -> Image:
    height, width = image.shape[:2]
    size = max(width, MIN_SIDE), max(height, MIN_SIDE)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)


def stretch(values: Floats) -> Floats:
    """Shift and scale to 0..1; all 0 where there is no spread."""
    low, high = values.min(), values.max()
    if not high - low > 1e-9:
        return np.zeros_like(values)
    return np.asarray((values - low) / (high - low))


def weighted_gaussians(features_ND: Floats, weights_SN: Floats) -> tuple[Floats, Floats]:
    """Fit a Gaussian to superpixels for each row of weights, not negative and not all 0.

    Returns the squared Mahalanobis distances [S, N] and log determinants of the covariances [S].
    """
    weights_SN = weights_SN / weights_SN.sum(axis=1, keepdims=True)
    offset_SND = features_ND - np.einsum("sn,nd->sd", weights_SN, features_ND)[:, None]
    # three operands in one einsum take twice as long
    covariance = np.einsum("sni,snj->sij", weights_SN[..., None] * offset_SND, offset_SND)
    covariance += VARIANCE_FLOOR * np.eye(covariance.shape[1])
    lower = np.linalg.cholesky(covariance)
    white = np.einsum("sij,snj->sni", np.linalg.inv(lower), offset_SND)
    volumes = 2 * np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1)
    return np.einsum("sni,sni->sn", white, white), volumes


def border_distance(features_ND: Floats, pieces: Superpixels) -> Floats:
    """Mahalanobis distance to the nearest of four Gaussians, one for each side of the image.

    The minimum lets a background have parts: sky above, grass below. Each Gaussian is fitted
    twice: a superpixel unlike the three other sides is probably an object that the image's edge
    cuts, and counts little in the second fit; sky and grass reach around the corner.
    """
    squared_4N, _ = weighted_gaussians(features_ND, pieces.sides_4N)
    elsewhere_4N = np.stack([np.delete(squared_4N, n, axis=0).min(axis=0) for n in range(4)])
    trust_4N = np.exp(-elsewhere_4N / (2 * STRANGE**2)) + LEAST_TRUST
    squared_4N, _ = weighted_gaussians(features_ND, pieces.sides_4N * trust_4N)
    return np.asarray(np.sqrt(squared_4N.min(axis=0)))


def barrier_distance(features_ND: Floats, pieces: Superpixels) -> Floats:
    """Least range of values that a path from the border has to cross, summed over features.

    All superpixels are relaxed at once, `BARRIER_SWEEPS` times: paths with more turns are rare,
    and cost about as much as the shorter ones.
    """
    is_border = (pieces.sides_4N.sum(axis=0) > 0)[:, None]
    neighbours_KN = np.ascontiguousarray(pieces.neighbours_NK.T)  # minima over K are fast in front
    highest = np.where(is_border, features_ND, np.inf)
    lowest = np.where(is_border, features_ND, -np.inf)
    cost = np.where(is_border, 0.0, np.inf) + np.zeros_like(features_ND)
    for _ in range(BARRIER_SWEEPS):
        high_KND = np.maximum(highest.take(neighbours_KN, axis=0), features_ND)
        low_KND = np.minimum(lowest.take(neighbours_KN, axis=0), features_ND)
        through_KND = high_KND - low_KND
        reached = through_KND.min(axis=0)
        better = np.nonzero(reached < cost)
        if not len(better[0]):
            break
        best = through_KND[:, *better].argmin(axis=0)  # type: ignore[arg-type]
        cost[better] = reached[better]
        highest[better], lowest[better] = high_KND[best, *better], low_KND[best, *better]
    cost[~np.isfinite(cost)] = 0.0  # further than the sweeps reach: nothing is known
    return np.asarray(cost.sum(axis=1))


def relearn(
    saliency_N: Floats, features_ND: Floats, pieces: Superpixels, prior_N: Floats, rounds: int
) -> Floats:
    """Correct the map, which runs from 0 to 1, by a classifier that it trains for this image alone.

    Superpixels with sure values train it: bootstrap learning (Tong et al., CVPR 2015), here with
    one Gaussian for the object and one for the background in place of a support vector machine.
    Place is a feature, so what lies near the object's own centre is likelier object. `prior_N` > 0
    says how likely the object is here: it weighs what teaches the object's Gaussian, not the map.
    """
    placed = np.concatenate([features_ND, PLACE * pieces.centre_N2], axis=1)
    for _ in range(rounds):
        teachers = saliency_N * prior_N
        of_object = (teachers / teachers.max()) ** SURE * pieces.area_N
        of_background = (1 - saliency_N) ** SURE * pieces.area_N
        weights_2N = np.stack([of_object, of_background])
        (to_object, to_background), volumes = weighted_gaussians(placed, weights_2N)
        log_ratio = (to_background - to_object + volumes[1] - volumes[0]) / 2
        is_object = 1 / (1 + np.exp(-np.clip(log_ratio / SOFTNESS, -50, 50)))
        saliency_N = stretch(saliency_N + SHARE * is_object)
    return saliency_N
