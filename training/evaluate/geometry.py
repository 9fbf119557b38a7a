"""Figures of how features lie on the sphere, and in how many directions.

Shapes: M images, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import InputError

UNIFORMITY_SCALE = 2.0
"""t of the Gaussian potential, as in the paper."""


def alignment(first_MD: Tensor, second_MD: Tensor) -> float:
    """Mean squared distance of unit features of two views of an image: 0 is perfect, 2 is chance.

    Wang and Isola, arXiv 2005.10242, section 4.1, with alpha = 2.

    Args:
        first_MD: float features of one view of each image.
        second_MD: of another view of the same images.
    """
    first, second = F.normalize(first_MD, dim=1), F.normalize(second_MD, dim=1)
    return float((first - second).square().sum(dim=1).mean())


def uniformity(features_MD: Tensor) -> float:
    """Log of the mean of exp(-2 ||u - v||^2) over pairs of unit features; lower is more even.

    Wang and Isola, arXiv 2005.10242, section 4.1, with t = 2: 0 where all features are one.

    Args:
        features_MD: float, M >= 2.

    Raises:
        InputError: fewer than two images.
    """
    if len(features_MD) < 2:
        raise InputError(f"uniformity of {len(features_MD)} image: wanted 2 or more")
    distances = torch.pdist(F.normalize(features_MD.double(), dim=1))
    return float(torch.exp(-UNIFORMITY_SCALE * distances.square()).mean().log())


def effective_rank(features_MD: Tensor) -> float:
    """Exp of the entropy of the covariance's eigenvalues, as shares of their sum: 1 to D.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, on
    the eigenvalues of the covariance.

    Args:
        features_MD: float; 0 where they do not vary at all.
    """
    centred_MD = features_MD.double() - features_MD.double().mean(dim=0)
    values = torch.linalg.svdvals(centred_MD).square()
    total = values.sum()
    if float(total) <= 0:
        return 0.0
    shares = values / total
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))
