"""The terms of hard negatives in a softmax loss: their weights, and the loss with them.

Shapes: A anchors, N hard negatives of each, D embedding.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from training.core.schedules import Moment
from training.methods.settings import HardNegativeConfig

PAPER_NEGATIVES = 65536  # keys in the paper's queue


class HardNegatives(NamedTuple):
    """The anchors' own hard negatives, and what their terms of the denominator are."""

    rows_AND: Tensor
    """Unit rows, N of each anchor."""
    rho: float | Tensor
    """Weight of the similarity, inside the exponential; a tensor may change without recompiling."""
    log_mass: float = 0.0
    """Added to the logits."""
    weigh: Callable[[Tensor, float | Tensor], Tensor] | None = None
    """Gives the logarithms of the terms' weights [A, N], without gradient, from the similarities
    [A, N] and the scale that makes logits of them; None: all weights are 1."""


def softmax_loss(
    logits: Tensor,
    target_A: Tensor,
    anchors_AD: Tensor,
    hard: HardNegatives | None,
    *,
    temperature: float,
    weights_A: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Cross entropy of the logits and those of the hard negatives: exp(rho * s / temperature) each.

    Returns:
        The mean of the anchors' losses times their weights (None: 1); the similarities [A, N] and
        the share [A] of the hard negatives, if any.
    """
    hard_AN = share_A = None
    if hard is not None:
        scale = hard.rho / temperature
        hard_AN = (hard.rows_AND @ anchors_AD[:, :, None]).squeeze(2)
        hard_logits_AN = scale * hard_AN
        if hard.log_mass:
            hard_logits_AN = hard_logits_AN + hard.log_mass
        if hard.weigh is not None:
            hard_logits_AN = hard_logits_AN + hard.weigh(hard_AN, scale)
        logits, hard_AN = torch.cat((logits, hard_logits_AN), dim=1), hard_AN.detach()
        with torch.no_grad():
            share_A = (hard_logits_AN.logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()
    loss_A = functional.cross_entropy(logits, target_A, reduction="none")
    loss = loss_A.mean() if weights_A is None else (loss_A * weights_A).mean()
    return loss, hard_AN, share_A


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


def rho_at(config: HardNegativeConfig, moment: Moment) -> float:
    """The weight of hard negatives at a step; it rises linearly from 0 during the warm-up."""
    rho = config.rho if config.object_head == "off" else config.object_rho
    warmup_steps = round(config.rho_warmup_epochs * moment.steps_per_epoch)
    return rho if moment.step >= warmup_steps else rho * moment.step / warmup_steps


def log_mass(config: HardNegativeConfig, num_negatives: int) -> float:
    """What is added to the logits of hard negatives beside so many other negatives."""
    meant = PAPER_NEGATIVES if config.hard_mass == "paper" else config.hard_mass
    return 0.0 if meant is None else math.log(num_negatives / float(meant))
