"""The fast linear probe: multinomial logistic regression on frozen features.

One deterministic forward of every image, then a convex problem solved by L-BFGS: minutes become
seconds. It is not the paper's probe, which trains the classifier by SGD on augmented views
(arXiv 2309.12757, section 4): figures of the two are not to be mixed.

Shapes: M training images, V validation images, D features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from training.evaluate.knn import check_features

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(2, -11, -1))  # 10 to 1e-5


@dataclass(frozen=True, kw_only=True)
class LinearResult:
    """What the probe found.

    Attributes:
        top1: on the validation images, in percent.
        strength: the L2 strength that was chosen.
        heldout_top1: top-1 in percent on the held-out part of training, per strength.
        predicted_V: the class of every validation image, int64.
    """

    top1: float
    strength: float
    heldout_top1: dict[float, float]
    predicted_V: torch.Tensor


def linear_probe(
    features_train_MD: torch.Tensor,
    labels_train_M: torch.Tensor,
    features_val_VD: torch.Tensor,
    labels_val_V: torch.Tensor,
    *,
    num_classes: int,
    seed: int = 0,
    heldout_share: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
    max_iterations: int = 300,
) -> LinearResult:
    """Choose the L2 strength on a part of training, fit all of training, score validation.

    Args:
        features_train_MD: float [M, D], on the device that computes.
        labels_train_M: int64 [M].
        features_val_VD: float [V, D].
        labels_val_V: int64 [V].
        num_classes: K.
        seed: of the held-out part.
        heldout_share: of every class, between 0 and 1.
        strengths: L2 strengths to try; of equally good ones the strongest wins.
        max_iterations: of L-BFGS per fit.

    Raises:
        InputError: empty sets, missing labels, features that do not match, nothing to hold out.
    """
    check_features("training", features_train_MD, labels_train_M, num_classes)
    check_features("validation", features_val_VD, labels_val_V, num_classes)
    if features_val_VD.shape[1] != features_train_MD.shape[1]:
        raise InputError(
            f"the probe got {features_val_VD.shape[1]} features in validation: "
            f"wanted {features_train_MD.shape[1]}, as in training"
        )
    if not strengths or not min(strengths) > 0:
        raise InputError(f"L2 strengths {list(strengths)}: wanted at least one, all above 0")
    device = features_train_MD.device
    labels_train_M, labels_val_V = labels_train_M.to(device), labels_val_V.to(device)
    mean_D = features_train_MD.float().mean(dim=0)
    # A feature that never varies (a dead channel) stays at zero.
    std_D = features_train_MD.float().std(dim=0, correction=0).clamp_min(1e-6)
    train_MD = (features_train_MD.float() - mean_D) / std_D
    val_VD = (features_val_VD.to(device).float() - mean_D) / std_D

    heldout = heldout_rows(labels_train_M.cpu().numpy(), share=heldout_share, seed=seed)
    heldout_M = torch.from_numpy(heldout).to(device)
    heldout_top1: dict[float, float] = {}
    start: torch.Tensor | None = None
    for strength in sorted(set(strengths), reverse=True):  # each fit starts from a stronger one's
        start = fit_logistic(
            train_MD[~heldout_M],
            labels_train_M[~heldout_M],
            num_classes=num_classes,
            strength=strength,
            start=start,
            max_iterations=max_iterations,
        )
        heldout_top1[strength] = top1(start, train_MD[heldout_M], labels_train_M[heldout_M])
    chosen = max(heldout_top1, key=lambda s: (heldout_top1[s], s))
    weights = fit_logistic(
        train_MD,
        labels_train_M,
        num_classes=num_classes,
        strength=chosen,
        max_iterations=max_iterations,
    )
    predicted_V = predicted_classes(weights, val_VD)
    return LinearResult(
        top1=share_right(predicted_V, labels_val_V),
        strength=chosen,
        heldout_top1=heldout_top1,
        predicted_V=predicted_V,
    )


def fit_logistic(
    features_MD: torch.Tensor,
    labels_M: torch.Tensor,
    *,
    num_classes: int,
    strength: float,
    start: torch.Tensor | None = None,
    max_iterations: int = 300,
    tolerance: float = 1e-5,
) -> torch.Tensor:
    """Minimise mean cross-entropy + strength / 2 * (sum of squared weights); the bias is free.

    scikit-learn's `C` is 1 / (strength * M).

    Args:
        features_MD: float [M, D], standardised; its dtype is the arithmetic's.
        labels_M: int64 [M].
        num_classes: K.
        strength: of the L2 term, above 0.
        start: [K, D + 1] to start from; none: zeros.
        max_iterations: of L-BFGS.
        tolerance: on the largest entry of the gradient.

    Returns:
        Weights and, in the last column, bias: [K, D + 1].
    """
    size = (num_classes, features_MD.shape[1] + 1)
    weights = features_MD.new_zeros(size) if start is None else start.detach().clone()
    weights.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=max_iterations,
        max_eval=2 * max_iterations,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        logits_MK = torch.addmm(weights[:, -1], features_MD, weights[:, :-1].T)
        loss = F.cross_entropy(logits_MK, labels_M) + strength / 2 * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(objective)
    return weights.detach()


def top1(weights: torch.Tensor, features_MD: torch.Tensor, labels_M: torch.Tensor) -> float:
    """Share of images whose class has the largest logit, in percent."""
    return share_right(predicted_classes(weights, features_MD), labels_M)


def predicted_classes(weights: torch.Tensor, features_MD: torch.Tensor) -> torch.Tensor:
    """The class of the largest logit, int64 [M]."""
    logits_MK: torch.Tensor = torch.addmm(weights[:, -1], features_MD, weights[:, :-1].T)
    return logits_MK.argmax(dim=1)


def share_right(predicted_M: torch.Tensor, labels_M: torch.Tensor) -> float:
    """Share of right predictions, in percent."""
    return 100 * float((predicted_M == labels_M).double().mean())


def heldout_rows(labels_M: NDArray[np.int64], *, share: float, seed: int) -> NDArray[np.bool_]:
    """Mark a seeded share of every class, at least one image, of classes of two or more.

    Raises:
        InputError: a share outside (0, 1), or no class has two images.
    """
    if not 0 < share < 1:
        raise InputError(f"heldout_share is {share}: wanted between 0 and 1")
    generator = np.random.default_rng(seed)
    marked = np.zeros(len(labels_M), dtype=np.bool_)
    for label in np.unique(labels_M):
        rows = generator.permutation(np.flatnonzero(labels_M == label))
        if len(rows) >= 2:
            marked[rows[: min(len(rows) - 1, max(1, round(share * len(rows))))]] = True
    if not marked.any():
        raise InputError("the probe found no class with two images: nothing to choose L2 on")
    return marked
