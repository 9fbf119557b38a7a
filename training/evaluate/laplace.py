"""How sure the linear probe is of its weights: a Laplace approximation of this last layer.

The posterior is taken for a Gaussian around the fitted weights, whose precision is the Hessian of
the probe's loss, the sum over images of  L (x) x x^T  with  L = diag(p) - p p^T,  plus the prior's
(MacKay, Neural Computation 1992). A shift of all logits changes no probability, and would make it
singular: logits are written in orthonormal contrasts of classes.

Shapes: M training images, V others, D features of which one is always 1, K classes, C = K - 1.
"""

from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy.linalg import helmert
from torch import Tensor

MAX_WEIGHTS = 5000
"""C * D up to which the Hessian is inverted whole: 200 MB. Beyond, it is the Kronecker product of
the mean of L and the sum of x x^T (Ritter, Botev and Barber, ICLR 2018)."""
DRAWS = 1000
MAX_DRAWN = 2**22
"""Logits held at once: 32 MiB."""


def contrasts(num_classes: int) -> Tensor:
    """Orthonormal rows that each sum to 0, float64 [C, K]."""
    return torch.from_numpy(np.asarray(helmert(num_classes)))


def laplace(
    weights_KD: Tensor, features_MD: Tensor, others_VD: Tensor, *, precision: float
) -> tuple[Tensor, Tensor]:
    """Logits of other images under the posterior of weights that were fitted to the features.

    `precision` > 0 is the prior's, of every weight: L2 strength * M. The bias, which the probe
    leaves free, has it too: with a flat prior it could be anything where every image is sure.

    Returns:
        Means [V, C] and covariances [V, C, C] of the logits' contrasts, float64 on the CPU.
    """
    weights_KD, x_MD, others_VD = (
        part.double().cpu() for part in (weights_KD, features_MD, others_VD)
    )
    q_CK, p_MK = contrasts(len(weights_KD)), (x_MD @ weights_KD.T).softmax(dim=1)
    mean_VC, num, dim = others_VD @ weights_KD.T @ q_CK.T, len(q_CK), x_MD.shape[1]
    if num * dim > MAX_WEIGHTS:
        mean_KK = p_MK.mean(dim=0).diag() - p_MK.T @ p_MK / len(p_MK)
        of_class_C, class_CC = torch.linalg.eigh(q_CK @ mean_KK @ q_CK.T)
        of_feature_D, feature_DD = torch.linalg.eigh(x_MD.T @ x_MD)
        variance_DC = 1 / (of_feature_D[:, None] * of_class_C + precision)
        spread_VC = (others_VD @ feature_DD).square() @ variance_DC
        return mean_VC, (class_CC * spread_VC[:, None]) @ class_CC.T
    own_MC, hessian = p_MK @ q_CK.T, x_MD.new_empty(num, dim, num, dim)
    curved_MCC = torch.einsum("ck,mk,ek->mce", q_CK, p_MK, q_CK)
    curved_MCC -= own_MC[:, :, None] * own_MC[:, None]
    pairs = list(combinations_with_replacement(range(num), 2))
    for c, e in pairs:
        hessian[c, :, e] = hessian[e, :, c] = x_MD.T @ (curved_MCC[:, c, e, None] * x_MD)
    flat = hessian.view(num * dim, -1)
    flat.diagonal().add_(precision)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(flat)).view_as(hessian)
    covariance_VCC = mean_VC.new_empty(len(mean_VC), num, num)
    for c, e in pairs:
        quadratic_V = ((others_VD @ inverse[c, :, e]) * others_VD).sum(dim=1)
        covariance_VCC[:, c, e] = covariance_VCC[:, e, c] = quadratic_V
    return mean_VC, covariance_VCC


def mean_softmax(mean_VC: Tensor, covariance_VCC: Tensor, *, seed: int) -> Tensor:
    """The mean softmax over draws of Gaussian logits, in pairs around their mean: [V, K]."""
    half = np.random.default_rng(seed).standard_normal((DRAWS // 2, mean_VC.shape[1]))
    drawn_SC, q_CK = torch.from_numpy(np.concatenate([half, -half])), contrasts(len(half.T) + 1)
    step, found = max(1, MAX_DRAWN // (DRAWS * q_CK.shape[1])), []
    roots = torch.linalg.cholesky(covariance_VCC).split(step)
    for mean_BC, root_BCC in zip(mean_VC.split(step), roots, strict=True):
        logits_BSK = (mean_BC[:, None] + drawn_SC @ root_BCC.mT) @ q_CK
        found.append(logits_BSK.softmax(dim=2).mean(dim=1))
    return torch.cat(found)
