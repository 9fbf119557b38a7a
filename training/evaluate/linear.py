"""The fast linear probe: multinomial logistic regression on frozen features.

One deterministic forward of every image, then a convex problem solved by L-BFGS: minutes become
seconds. It is not the paper's probe, which trains the classifier by SGD on augmented views
(arXiv 2309.12757, section 4): figures of the two are not to be mixed.

Shapes: M training images, V validation images, D features, K classes.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import check
from training.evaluate.case import Case
from training.evaluate.knn import check_features
from training.evaluate.results import Result

STRENGTHS = tuple(10.0 ** (e / 2) for e in range(2, -11, -1))
"""L2 strengths that are tried, from 10 to 1e-5; of equally good ones the strongest wins."""
HELDOUT_SHARE = 0.2
MAX_ITERATIONS = 300


class LinearResult(NamedTuple):
    """The class of every validation image, int64, and the choice of the L2 strength.

    `heldout_top1` is in percent on the held-out part of training, by strength.
    """

    predicted_V: Tensor
    strength: float
    heldout_top1: dict[float, float]


def linear(case: Case) -> list[Result]:
    """The protocol `linear`: logistic regression on frozen features."""
    found = linear_probe(
        *case.features_train,
        *case.features_val,
        num_classes=case.num_classes,
        seed=case.config.seed,
    )
    return [case.accuracy("linear", found.predicted_V, settings={"strength": found.strength})]


def linear_probe(
    features_train_MD: Tensor,
    labels_train_M: Tensor,
    features_val_VD: Tensor,
    labels_val_V: Tensor,
    *,
    num_classes: int,
    seed: int = 0,
) -> LinearResult:
    """Choose the L2 strength on a held-out part of training, fit on all of it, classify.

    Features float [M, D] and [V, D] are standardised with the mean and deviation of training; the
    first ones' device computes. Labels int64; those of validation are checked, but not used.

    Raises:
        InputError: empty sets, missing labels, features that do not match, nothing to hold out.
    """
    check_features("training", features_train_MD, labels_train_M, num_classes)
    check_features("validation", features_val_VD, labels_val_V, num_classes)
    check(
        features_val_VD.shape[1] == features_train_MD.shape[1],
        f"the probe got {features_val_VD.shape[1]} features in validation: "
        f"wanted {features_train_MD.shape[1]}, as in training",
    )
    device = features_train_MD.device
    labels_M = labels_train_M.to(device)
    mean_D = features_train_MD.float().mean(dim=0)
    # A feature that never varies (a dead channel) stays at zero.
    std_D = features_train_MD.float().std(dim=0, correction=0).clamp_min(1e-6)
    train_MD = (features_train_MD.float() - mean_D) / std_D
    val_VD = (features_val_VD.to(device).float() - mean_D) / std_D

    heldout_M = torch.from_numpy(heldout_rows(labels_train_M.cpu().numpy(), seed=seed)).to(device)
    fitted_MD, fitted_M = train_MD[~heldout_M], labels_M[~heldout_M]
    heldout_top1: dict[float, float] = {}
    weights: Tensor | None = None
    for strength in STRENGTHS:  # each fit starts from a stronger one's
        weights = fit_logistic(
            fitted_MD, fitted_M, num_classes=num_classes, strength=strength, start=weights
        )
        right = predicted_classes(weights, train_MD[heldout_M]) == labels_M[heldout_M]
        heldout_top1[strength] = 100 * float(right.double().mean())
    chosen = max(heldout_top1, key=lambda s: (heldout_top1[s], s))
    weights = fit_logistic(train_MD, labels_M, num_classes=num_classes, strength=chosen)
    return LinearResult(predicted_classes(weights, val_VD), chosen, heldout_top1)


def fit_logistic(
    features_MD: Tensor,
    labels_M: Tensor,
    *,
    num_classes: int,
    strength: float,
    start: Tensor | None = None,
    tolerance: float = 1e-5,
) -> Tensor:
    """Minimise mean cross-entropy + strength / 2 * (sum of squared weights); the bias is free.

    scikit-learn's `C` is 1 / (strength * M). The features' dtype is the arithmetic's; the tolerance
    is on the largest entry of the gradient.

    Returns:
        Weights and, in the last column, bias: [K, D + 1].
    """
    size = (num_classes, features_MD.shape[1] + 1)
    weights = features_MD.new_zeros(size) if start is None else start.detach().clone()
    weights.requires_grad_(True)
    optimiser = torch.optim.LBFGS(
        [weights],
        max_iter=MAX_ITERATIONS,
        max_eval=2 * MAX_ITERATIONS,
        tolerance_grad=tolerance,
        tolerance_change=0,
        history_size=10,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(_logits(weights, features_MD), labels_M)
        loss = loss + strength / 2 * weights[:, :-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(objective)
    return weights.detach()


def predicted_classes(weights: Tensor, features_MD: Tensor) -> Tensor:
    """The class of the largest logit, int64 [M]."""
    return _logits(weights, features_MD).argmax(dim=1)


def _logits(weights: Tensor, features_MD: Tensor) -> Tensor:
    return torch.addmm(weights[:, -1], features_MD, weights[:, :-1].T)


def heldout_rows(labels_M: NDArray[np.int64], *, seed: int) -> NDArray[np.bool_]:
    """Mark a seeded fifth of every class, at least one image, of classes of two or more.

    Raises:
        InputError: no class has two images.
    """
    generator = np.random.default_rng(seed)
    marked = np.zeros(len(labels_M), dtype=np.bool_)
    for label in np.unique(labels_M):
        rows = generator.permutation(np.flatnonzero(labels_M == label))
        if len(rows) >= 2:
            marked[rows[: max(1, round(HELDOUT_SHARE * len(rows)))]] = True
    check(bool(marked.any()), "the probe found no class with two images: nothing to choose L2 on")
    return marked
