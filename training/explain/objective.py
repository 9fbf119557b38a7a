"""What a mask is trained for: to keep what an image is recognised by, and to hide all of that.

Stalder et al., "What You See is What You Classify", NeurIPS 2022 (arXiv 2205.11266), section 3,
for one mask, and with prototypes of a frozen backbone's features in place of classes.

Shapes: M images, B batch, D features, K prototypes, P side of a mask in cells, N = P * P.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.core.errors import check

ROUNDS = 50
"""Of k-means at most; it ends when no image changes its prototype."""


def spherical_kmeans(features_MD: Tensor, num: int, *, seed: int) -> Tensor:
    """Unit prototypes [K, D] with a greatest sum, over images, of the cosine to the nearest one.

    Dhillon and Modha, "Concept decompositions for large sparse text data using clustering", 2001.
    Starts from images that the seed draws; a prototype without images becomes the image that is
    farthest from its own. Raises InputError for fewer images than prototypes.
    """
    unit_MD = F.normalize(features_MD.double(), dim=1)
    size = len(unit_MD)
    check(num <= size, f"{num} prototypes of {size} images: wanted at most one for each image")
    start = np.random.default_rng(seed).permutation(size)[:num]
    centre_KD, before_M = unit_MD[torch.from_numpy(start).to(unit_MD.device)], None
    for _ in range(ROUNDS):
        cosine_M, nearest_M = (unit_MD @ centre_KD.T).max(dim=1)
        if before_M is not None and torch.equal(nearest_M, before_M):
            break
        sum_KD = torch.zeros_like(centre_KD).index_add_(0, nearest_M, unit_MD)
        empty_K = torch.bincount(nearest_M, minlength=num) == 0
        sum_KD[empty_K] = unit_MD[cosine_M.argsort(stable=True)[: int(empty_K.sum())]]
        centre_KD, before_M = F.normalize(sum_KD, dim=1), nearest_M
    return centre_KD.float()


class Prototypes(NamedTuple):
    """Labels that nobody gave, of features from which their mean over the images is taken.

    What all images have in common would bind whatever is hidden to the nearest prototypes.
    """

    mean_D: Tensor
    centre_KD: Tensor

    @classmethod
    def of(cls, features_MD: Tensor, num: int, *, seed: int) -> "Prototypes":
        """So many prototypes, by `spherical_kmeans`."""
        mean_D = features_MD.mean(dim=0)
        return cls(mean_D, spherical_kmeans(features_MD - mean_D, num, seed=seed))

    def log_p(self, features_BD: Tensor, temperature: float) -> Tensor:
        """Logarithms of p(k | x) = softmax(cosine(f(x) - mean, prototype k) / temperature)."""
        cosine_BK = F.normalize(features_BD - self.mean_D, dim=1) @ self.centre_KD.T
        return (cosine_BK / temperature).log_softmax(dim=1)


class Losses(NamedTuple):
    """Means over a batch, before they are weighted.

    Cross-entropy of p(m x) to p(x) and entropy of p((1 - m) x), in nats; then of the mask alone.
    """

    keep: Tensor
    entropy: Tensor
    variation: Tensor
    bounds: Tensor
    area: Tensor


def losses(
    whole_BK: Tensor,
    kept_BK: Tensor,
    hidden_BK: Tensor,
    *,
    mask_B1PP: Tensor,
    area: tuple[float, float],
) -> Losses:
    """The parts of the loss, of log-probabilities of x, m x and (1 - m) x."""
    return Losses(
        keep=-(whole_BK.exp() * kept_BK).sum(dim=1).mean(),
        entropy=-(hidden_BK.exp() * hidden_BK).sum(dim=1).mean(),
        variation=mask_B1PP.diff(dim=2).abs().mean() + mask_B1PP.diff(dim=3).abs().mean(),
        bounds=area_bounds(mask_B1PP, *area),
        area=mask_B1PP.mean(),
    )


def area_bounds(mask_B1PP: Tensor, least: float, most: float) -> Tensor:
    """Mean of relu(1[place < least] - value) + relu(value - 1[place < most]) over sorted cells.

    Of a mask's N cells, the highest `least` N should be 1, and all but the highest `most` N 0.
    """
    value_BN = mask_B1PP.flatten(1).sort(dim=1, descending=True).values
    place_N = (torch.arange(value_BN.shape[1], device=value_BN.device) + 0.5) / value_BN.shape[1]
    low_N, high_N = (place_N < least).to(value_BN), (place_N < most).to(value_BN)
    return ((low_N - value_BN).relu() + (value_BN - high_N).relu()).mean()
