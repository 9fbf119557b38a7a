"""Contrastive losses with hard negatives.

Shapes: `B` this rank's batch, `G` global batch, `D` embedding, `K` queue, `N` hard negatives per
image, `A` anchors (2 B in `nt_xent`, else B).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Weigh = Callable[[Tensor, float | Tensor], Tensor]
"""Logarithms of the weights of hard negatives [A, N], from their similarities [A, N] and the scale
that makes these logits: without gradient."""


class Similarities(NamedTuple):
    """Similarities of unit rows, in [-1, 1], before rho and temperature; without gradient."""

    positive_A: Tensor
    negative: Tensor
    """Mean over the anchors and their negatives from other images: a scalar."""
    best_negative_A: Tensor
    """Of the most similar negative from another image."""
    hard_AN: Tensor | None = None
    hard_share_A: Tensor | None = None
    """Share of the softmax's denominator that the hard negatives hold, in [0, 1]."""


def info_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    queue_KD: Tensor,
    *,
    temperature: float,
    hard_negatives_BND: Tensor | None = None,
    rho: float | Tensor = 0.0,
    log_mass: float = 0.0,
    weigh: Weigh | None = None,
    weights_B: Tensor | None = None,
) -> tuple[Tensor, Similarities]:
    """MoCo's InfoNCE with each query's own hard negatives in the denominator.

    logits = [q.k+, q.queue, rho * q.k-] / temperature, cross entropy with target 0, mean over the
    batch (arXiv 2309.12757, section 3.3; the weighted term is that of Ge et al., "Robust
    Contrastive Learning Using Negative Samples with Diminished Semantics", NeurIPS 2021).

    rho weighs the similarity, inside the exponential. At rho 0 a hard negative still adds exp(0) to
    the denominator: to have none, pass none. Identical embeddings give
    log(K + 1 + N * exp((rho - 1) / temperature)), uniform similarities without hard negatives
    log(K + 1).

    Args:
        query_BD: unit rows; the gradient flows through them.
        key_BD: unit rows, the positive of each query.
        queue_KD: unit rows, the negatives that all queries share.
        temperature: divides every logit, > 0.
        hard_negatives_BND: unit rows, the N hard negatives of each query.
        rho: weight of the hard negatives; a scalar tensor may change without a recompilation.
        log_mass: added to the hard negatives' logits.
        weigh: weights of the hard negatives' terms; None: 1.
        weights_B: factors of the queries' losses before the mean; None: 1.

    Returns:
        The loss, a scalar, and the similarities. Computed in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=query_BD.device.type, enabled=False):
        positive_B = (query_BD * key_BD).sum(dim=1)
        queue_BK = query_BD @ queue_KD.mT
        logits = torch.cat([positive_B[:, None], queue_BK], dim=1) / temperature
        hard_BN = share_B = None
        if hard_negatives_BND is not None:
            hard_BN, hard_logits_BN = _hard_logits(
                query_BD, hard_negatives_BND, rho / temperature, weigh, log_mass
            )
            logits = torch.cat([logits, hard_logits_BN], dim=1)
            share_B = _share(hard_logits_BN, logits)
        target_B = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = _mean(functional.cross_entropy(logits, target_B, reduction="none"), weights_B)
    queue_BK = queue_BK.detach()
    return loss, Similarities(
        positive_B.detach(), queue_BK.mean(), queue_BK.amax(dim=1), hard_BN, share_B
    )


def nt_xent(
    view1_BD: Tensor,
    view2_BD: Tensor,
    *,
    temperature: float,
    all_view1_GD: Tensor | None = None,
    all_view2_GD: Tensor | None = None,
    first_row: int = 0,
    hard_negatives_BND: tuple[Tensor, Tensor] | None = None,
    rho: float | Tensor = 0.0,
    log_mass: float = 0.0,
    weigh: Weigh | None = None,
    weights_B: Tensor | None = None,
    all_weights_G: Tensor | None = None,
) -> tuple[Tensor, Similarities]:
    """NT-Xent over both views, with each anchor's own hard negatives in its denominator.

    An anchor's positive is the other view of its image, its negatives are both views of all other
    images (Chen et al., SimCLR, arXiv 2002.05709): cross entropy over the 2 G - 1 similarities
    divided by the temperature. Its hard negatives add exp(rho * z.z- / temperature) each to the
    denominator. The masked variant of SimCLR is named in arXiv 2309.12757 without its loss: where
    the hard negatives enter is this project's reading.

    Identical embeddings give log(2 G - 1 + N * exp((rho - 1) / temperature)), uniform similarities
    without hard negatives log(2 G - 1).

    Args:
        view1_BD: unit rows, anchors of this rank.
        view2_BD: unit rows, anchors of this rank.
        temperature: divides every logit, > 0.
        all_view1_GD: unit rows of the global batch, this rank's among them; None: only this rank's.
        all_view2_GD: the same of view 2.
        first_row: index of this rank's first row in the global batch.
        hard_negatives_BND: unit rows, the N hard negatives of each anchor in view 1 and in view 2.
        rho: weight of the hard negatives; a scalar tensor may change without a recompilation.
        log_mass: added to the hard negatives' logits.
        weigh: weights of the hard negatives' terms; None: 1.
        weights_B: factors of both losses of each image before the mean; None: 1.
        all_weights_G: those of the global batch; None: only this rank's. An image of weight 0 is
            nobody's negative.

    Returns:
        The loss, mean over this rank's 2 B anchors, and the similarities, of view 1 first. Computed
        in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=view1_BD.device.type, enabled=False):
        anchors_AD = torch.cat((view1_BD, view2_BD))
        bank = torch.cat(
            (
                view1_BD if all_view1_GD is None else all_view1_GD,
                view2_BD if all_view2_GD is None else all_view2_GD,
            )
        )
        similarity = anchors_AD @ bank.mT
        row_B = torch.arange(len(view1_BD), device=anchors_AD.device) + first_row
        other_B = row_B + len(bank) // 2
        own_A, partner_A = torch.cat((row_B, other_B)), torch.cat((other_B, row_B))
        column = torch.arange(len(bank), device=anchors_AD.device)
        is_partner, no_term = column == partner_A[:, None], column == own_A[:, None]
        if weights_B is not None:
            weights_G = weights_B if all_weights_G is None else all_weights_G
            no_term = no_term | ((weights_G == 0).repeat(2) & ~is_partner)
        logits = (similarity / temperature).masked_fill(no_term, -torch.inf)
        hard_AN = share_A = None
        if hard_negatives_BND is not None:
            hard_AN, hard_logits_AN = _hard_logits(
                anchors_AD, torch.cat(hard_negatives_BND), rho / temperature, weigh, log_mass
            )
            logits = torch.cat((logits, hard_logits_AN), dim=1)
            share_A = _share(hard_logits_AN, logits)
        loss_A = functional.cross_entropy(logits, partner_A, reduction="none")
        loss = _mean(loss_A, None if weights_B is None else weights_B.repeat(2))
    similarity, no_negative = similarity.detach(), no_term | is_partner
    negatives = similarity.masked_fill(no_negative, 0.0)
    return loss, Similarities(
        similarity.gather(1, partner_A[:, None]).squeeze(1),
        (negatives.sum(dim=1) / (~no_negative).sum(dim=1).clamp(min=1)).mean(),
        similarity.masked_fill(no_negative, -torch.inf).amax(dim=1),
        hard_AN,
        share_A,
    )


def _mean(loss_A: Tensor, weights_A: Tensor | None) -> Tensor:
    return loss_A.mean() if weights_A is None else (loss_A * weights_A).mean()


def _hard_logits(
    anchors_AD: Tensor,
    hard_negatives_AND: Tensor,
    scale: float | Tensor,
    weigh: Weigh | None,
    log_mass: float,
) -> tuple[Tensor, Tensor]:
    """Similarities of anchors to their hard negatives, detached, and the logits of their terms."""
    hard_AN = (hard_negatives_AND @ anchors_AD[:, :, None]).squeeze(2)
    logits_AN = scale * hard_AN if log_mass == 0 else scale * hard_AN + log_mass
    if weigh is not None:
        logits_AN = logits_AN + weigh(hard_AN, scale)
    return hard_AN.detach(), logits_AN


@torch.no_grad()
def _share(hard_logits_AN: Tensor, logits: Tensor) -> Tensor:
    """The hard negatives' share of the denominator, [A]; `logits` holds theirs too."""
    return (hard_logits_AN.logsumexp(dim=1) - logits.logsumexp(dim=1)).exp()


@torch.no_grad()
def prime_log_weights(
    similarity_AN: Tensor, *, scale: float | Tensor, power: float, bias: float
) -> Tensor:
    """Weights of hard negatives by the rank of their similarity: the most similar count most.

    w = ((1 - bias) * (n - rank) / n + bias) ** power with rank 0 for the most similar of all n,
    then all scaled by one factor so that the total of the weighted terms is that of the unweighted
    ones: sum of w * exp(scale * s) = sum of exp(scale * s). After the importance-based reweighting
    of Cao et al., "Prime Sample Attention in Object Detection", CVPR 2020, section 4.2, which ranks
    detections and keeps the total of their losses.

    Args:
        similarity_AN: of the anchors to their hard negatives.
        scale: factor that turns similarities into logits, rho / temperature.
        power: exponent, >= 0; 0 makes all weights 1.
        bias: in [0, 1].

    Returns:
        The logarithms of the weights, same shape, without gradient.
    """
    flat = similarity_AN.flatten()
    order = torch.argsort(flat, descending=True, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(0, order, torch.arange(len(flat), device=flat.device))
    share = (len(flat) - rank).to(flat.dtype) / len(flat)
    log_weight = power * torch.log((1.0 - bias) * share + bias)
    logits = scale * flat
    kept = torch.logsumexp(logits, 0) - torch.logsumexp(logits + log_weight, 0)
    return (log_weight + kept).view_as(similarity_AN)
