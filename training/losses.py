"""Contrastive losses with hard negatives.

Shapes: `B` batch, `D` embedding, `K` queue, `N` hard negatives per image.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class InfoNCELogits(NamedTuple):
    """Similarities of the queries, before rho and temperature; for unit vectors in [-1, 1]."""

    positive_B: Tensor
    queue_BK: Tensor
    hard_BN: Tensor | None


def info_nce(
    query_BD: Tensor,
    key_BD: Tensor,
    queue_KD: Tensor,
    *,
    temperature: float,
    hard_negatives_BND: Tensor | None = None,
    rho: float | Tensor = 0.0,
) -> tuple[Tensor, InfoNCELogits]:
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

    Returns:
        The loss, a scalar, and the similarities. Computed in the dtype given, under autocast too.
    """
    with torch.autocast(device_type=query_BD.device.type, enabled=False):
        positive_B = (query_BD * key_BD).sum(dim=1)
        queue_BK = query_BD @ queue_KD.mT
        columns = [positive_B[:, None], queue_BK]
        hard_BN = None
        if hard_negatives_BND is not None:
            hard_BN = (hard_negatives_BND @ query_BD[:, :, None]).squeeze(2)
            columns.append(rho * hard_BN)
        logits = torch.cat(columns, dim=1) / temperature
        target_B = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = functional.cross_entropy(logits, target_B)
    return loss, InfoNCELogits(positive_B, queue_BK, hard_BN)
