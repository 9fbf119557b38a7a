"""How much an image of a pool is like a target: cosines and losses.

Shapes: M images of the pool, T of the target, B of the bank, D features, all of them unit rows.
"""

import torch
from torch import Tensor

NEIGHBOURS = 5
"""Images of the target whose cosines count."""


def cosine_scores(features_MD: Tensor, target_TD: Tensor) -> Tensor:
    """The mean of the 5 greatest cosines to the target's features (of all, if fewer): [M]."""
    cosines_MT = features_MD @ target_TD.T
    return cosines_MT.topk(min(NEIGHBOURS, len(target_TD)), dim=1).values.double().mean(dim=1)


def image_losses(
    query_MD: Tensor, key_MD: Tensor, bank_BD: Tensor, is_own_MB: Tensor, *, temperature: float
) -> Tensor:
    """InfoNCE of each image's pair of views against the bank, in nats, float64 [M].

    -log(exp(q.k / t) / (exp(q.k / t) + sum over the bank of exp(q.b / t)))

    `is_own_MB` marks the rows of the bank that are views of the image itself: no negatives.
    Equal similarities give log(B + 1).
    """
    query_MD = query_MD.double() / temperature
    positive_M1 = (query_MD * key_MD).sum(dim=1, keepdim=True)
    negatives_MB = (query_MD @ bank_BD.double().T).masked_fill(is_own_MB, -torch.inf)
    return torch.cat((positive_M1, negatives_MB), dim=1).logsumexp(dim=1) - positive_M1[:, 0]
