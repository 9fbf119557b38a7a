"""Two ways to ask which superpixels are unlike the image's border.

- `border_distance`: how far from the Gaussian of the side that it resembles most;
- `barrier_distance`: which barrier surrounds it (minimum barrier distance, Strand et al., CVIU
  2013; for saliency Zhang et al., ICCV 2015), here over the graph of superpixels.

They fail on different images, so their sum is better than either.

Sums are `einsum`, not `@`: a threaded BLAS may add in another order on another machine.

Shapes: N superpixels, D features, K neighbours.
"""

import numpy as np

from pipeline.saliency.superpixels import Floats, Superpixels

BARRIER_SWEEPS = 10
STRANGE = 4.0
"""Standard deviations from all other sides at which a side's own superpixel is doubted."""
LEAST_TRUST = 1e-3


def stretch(values: Floats) -> Floats:
    """Shift and scale to 0..1; all 0 where there is no spread."""
    low, high = values.min(), values.max()
    if not high - low > 1e-9:
        return np.zeros_like(values)
    return np.asarray((values - low) / (high - low))


def weighted_gaussian(features_ND: Floats, weights_N: Floats, floor: float) -> tuple[Floats, float]:
    """Fit a Gaussian to weighted superpixels.

    Args:
        features_ND: float64.
        weights_N: float64, not negative, not all 0.
        floor: added to the variances, so that what is even does not make noise stand out.

    Returns:
        Squared Mahalanobis distance of each superpixel, float64 [N], and the covariance's log
        determinant.
    """
    weights = weights_N / weights_N.sum()
    offset = features_ND - np.einsum("n,nd->d", weights, features_ND)
    covariance = np.einsum("n,ni,nj->ij", weights, offset, offset)
    covariance += floor * np.eye(len(covariance))
    lower = np.linalg.cholesky(covariance)
    white = np.einsum("ij,nj->ni", np.linalg.inv(lower), offset)
    return np.einsum("ni,ni->n", white, white), 2 * float(np.log(np.diag(lower)).sum())


def border_distance(features_ND: Floats, pieces: Superpixels, floor: float) -> Floats:
    """Mahalanobis distance to the nearest of four Gaussians, one for each side of the image.

    The minimum lets a background have parts: sky above, grass below. A Gaussian is fitted twice:
    what none of the other three sides knows is likely an object that the image's edge cuts, and
    counts little the second time; sky and grass are known around the corner.
    """
    sides_4N = pieces.sides_4N
    squared_4N = _to_sides(features_ND, sides_4N, floor)
    elsewhere = [np.delete(squared_4N, side, axis=0).min(axis=0) for side in range(len(sides_4N))]
    trust_4N = np.exp(-np.stack(elsewhere) / (2 * STRANGE**2)) + LEAST_TRUST
    nearest = _to_sides(features_ND, sides_4N * trust_4N, floor).min(axis=0)
    return np.asarray(np.sqrt(nearest))


def _to_sides(features_ND: Floats, sides_4N: Floats, floor: float) -> Floats:
    """Squared Mahalanobis distances, float64 [4, N]."""
    return np.stack([weighted_gaussian(features_ND, side, floor)[0] for side in sides_4N])


def barrier_distance(features_ND: Floats, pieces: Superpixels) -> Floats:
    """Least range of values that a path from the border has to cross, summed over features.

    All superpixels are relaxed at once, `BARRIER_SWEEPS` times: paths with more turns than that
    are rare, and cost what the shorter ones cost.
    """
    is_border = pieces.is_border_N[:, None]
    own = features_ND[:, None]
    highest = np.where(is_border, features_ND, np.inf)
    lowest = np.where(is_border, features_ND, -np.inf)
    cost = np.where(is_border, 0.0, np.inf) + np.zeros_like(features_ND)
    for _ in range(BARRIER_SWEEPS):
        high = np.maximum(highest[pieces.neighbours_NK], own)
        low = np.minimum(lowest[pieces.neighbours_NK], own)
        through = high - low
        best = through.argmin(axis=1)[:, None]
        reached = np.take_along_axis(through, best, axis=1)[:, 0]
        is_better = reached < cost
        if not is_better.any():
            break
        cost = np.where(is_better, reached, cost)
        highest = np.where(is_better, np.take_along_axis(high, best, axis=1)[:, 0], highest)
        lowest = np.where(is_better, np.take_along_axis(low, best, axis=1)[:, 0], lowest)
    cost[~np.isfinite(cost)] = 0.0  # further than the sweeps reach: nothing is known
    return np.asarray(cost.sum(axis=1))
