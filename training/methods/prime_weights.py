"""Weights of hard negatives by the rank of their similarity.

Shapes: A anchors, N hard negatives of each.
"""

import torch
from torch import Tensor


@torch.no_grad()
def prime_log_weights(
    similarity_AN: Tensor, *, scale: float | Tensor, power: float, bias: float
) -> Tensor:
    """Logarithms of weights of hard negatives by rank: the most similar count most.

    Each anchor's most similar one comes first, these in the order of their similarity, then each
    anchor's second, and so on: [[.9, .8], [.5, .1]] has the order .9, .5, .8, .1. With this rank,
    0 to n - 1, w = ((1 - bias) * (n - rank) / n + bias) ** power, then all scaled by one factor so
    that the total of the weighted terms is that of the unweighted ones: sum of w * exp(scale * s) =
    sum of exp(scale * s). After Cao et al., "Prime Sample Attention in Object Detection", CVPR
    2020, sections 4.1 and 4.2, which ranks the detections of each object first and then those of
    equal rank of all objects, and keeps the total of their losses.
    """
    flat = similarity_AN.flatten()
    within_AN = torch.argsort(torch.argsort(similarity_AN, descending=True, stable=True), dim=1)
    order = torch.argsort(flat, descending=True, stable=True)
    order = order[torch.argsort(within_AN.flatten()[order], stable=True)]
    rank = torch.argsort(order)
    share = (len(flat) - rank).to(flat.dtype) / len(flat)
    log_weight = power * torch.log((1.0 - bias) * share + bias)
    logits = scale * flat
    kept = torch.logsumexp(logits, 0) - torch.logsumexp(logits + log_weight, 0)
    return (log_weight + kept).view_as(similarity_AN)
