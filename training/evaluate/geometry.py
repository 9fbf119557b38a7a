"""Figures of how features lie on the sphere, and in how many directions.

Shapes: M images, D features.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import stdtrit
from torch import Tensor

from pipeline.core.errors import InputError
from training.evaluate.intervals import TAIL, percentile_interval

UNIFORMITY_SCALE = 2.0
"""t of the Gaussian potential, as in the paper."""
PAIR_RESAMPLES = 2_000
"""Of a figure of pairs of images: each takes a product of matrices."""
GROUPS = 20
"""That are left out in turn by the jackknife."""


def alignment(first_MD: Tensor, second_MD: Tensor) -> Tensor:
    """Squared distance of unit features of two views of each image, [M]: 0 is perfect, 2 chance.

    The mean is Wang and Isola's alignment, arXiv 2005.10242, section 4.1, with alpha = 2.
    """
    first, second = F.normalize(first_MD, dim=1), F.normalize(second_MD, dim=1)
    return (first - second).square().sum(dim=1)


def uniformity(features_MD: Tensor) -> float:
    """Log of the mean of exp(-2 ||u - v||^2) over pairs of unit features; lower is more even.

    Wang and Isola, arXiv 2005.10242, section 4.1, with t = 2: 0 where all features are one.

    Raises:
        InputError: fewer than two images.
    """
    if len(features_MD) < 2:
        raise InputError(f"uniformity of {len(features_MD)} image: wanted 2 or more")
    distances = torch.pdist(F.normalize(features_MD.double(), dim=1))
    return float(torch.exp(-UNIFORMITY_SCALE * distances.square()).mean().log())


def uniformity_interval(features_MD: Tensor, *, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of `uniformity`.

    Pairs of an image with itself, which resampling makes, do not count.
    """
    unit_MD = F.normalize(features_MD.double(), dim=1)
    potential_MM = torch.exp(-UNIFORMITY_SCALE * (2 - 2 * unit_MD @ unit_MD.T)).fill_diagonal_(0)
    num = len(unit_MD)
    drawn = np.random.default_rng(seed).multinomial(num, [1 / num] * num, size=PAIR_RESAMPLES)
    counts_RM = torch.from_numpy(drawn).to(unit_MD)
    total_R = (counts_RM @ potential_MM).mul_(counts_RM).sum(dim=1)
    pairs_R = counts_RM.sum(dim=1).square() - counts_RM.square().sum(dim=1)
    # No two different images in a resample of two: possible, and no figure.
    found = pairs_R > 0
    return percentile_interval((total_R[found] / pairs_R[found]).log().cpu().numpy())


def effective_rank(features_MD: Tensor) -> float:
    """Exp of the entropy of the covariance's eigenvalues, as shares of their sum: 1 to D.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, on
    the eigenvalues of the covariance. 0 where the features do not vary at all.
    """
    centred_MD = features_MD.double() - features_MD.double().mean(dim=0)
    values = torch.linalg.svdvals(centred_MD).square()
    total = values.sum()
    if float(total) <= 0:
        return 0.0
    shares = values / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def effective_rank_interval(features_MD: Tensor, *, seed: int) -> tuple[float, float] | None:
    """The 95 % interval of `effective_rank` by the jackknife over groups of images.

    Not by the bootstrap: a resample has fewer different images, and so a lower rank. None for fewer
    images than groups.
    """
    if len(features_MD) < GROUPS:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features_MD)))
    groups = order.tensor_split(GROUPS)
    left_out = [torch.cat(groups[:i] + groups[i + 1 :]) for i in range(GROUPS)]
    ranks = np.array([effective_rank(features_MD[rows]) for rows in left_out])
    reach = float(stdtrit(GROUPS - 1, 1 - TAIL) * math.sqrt(GROUPS - 1) * ranks.std())
    figure = effective_rank(features_MD)
    return figure - reach, figure + reach
