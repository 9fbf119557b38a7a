"""Classifiers of frozen features: weighted nearest neighbours, and a fast linear probe.

Neighbours: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", arXiv 1805.01978, section 3.4.

The probe is multinomial logistic regression: one deterministic forward of every image, then a
convex problem solved by L-BFGS: minutes become seconds. It is not the paper's probe, which trains
the classifier by SGD on augmented views (arXiv 2309.12757, section 4): figures of the two are not
to be mixed.

Shapes: M training images, V validation images, D features, K classes.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import check
from training.evaluate.case import Case
from training.evaluate.results import Result

MAX_SIMILARITIES = 2**26
"""Held at once, which bounds the memory: 256 MiB of float32."""
STRENGTHS = tuple(10.0 ** (e / 2) for e in range(2, -11, -1))
"""L2 strengths that are tried, from 10 to 1e-5; of equally good ones the strongest wins."""
HELDOUT_SHARE = 0.2
MAX_ITERATIONS = 300


def knn(case: Case) -> list[Result]:
    """The protocol `knn`, on frozen features."""
    k, temperature = case.config.k, case.config.temperature
    predicted_V = knn_predict(
        *case.features_train,
        case.features_val[0],
        num_classes=case.num_classes,
        k=k,
        temperature=temperature,
    )
    return [case.accuracy("knn", predicted_V, settings={"k": k, "temperature": temperature})]


def knn_predict(
    features_train_MD: Tensor,
    labels_train_M: Tensor,
    features_val_VD: Tensor,
    **voting: Any,  # noqa: ANN401
) -> Tensor:
    """The class with the most of `knn_votes`, int64 [V]; among equal votes the lower one."""
    return knn_votes(features_train_MD, labels_train_M, features_val_VD, **voting).argmax(dim=1)


def knn_votes(
    features_train_MD: Tensor,
    labels_train_M: Tensor,
    features_val_VD: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Let the k most similar training images vote: weight exp(cosine / temperature).

    Takes float [M, D], int64 [M] in 0 .. num_classes - 1 and float [V, D], rows of any length.

    Returns:
        Votes of an image for each class, up to a factor, float [V, K].

    Raises:
        InputError: empty sets, k > M, labels out of range, features that do not match.
    """
    num_train = len(features_train_MD)
    check_features("training", features_train_MD, labels_train_M, num_classes)
    check(
        len(features_val_VD) > 0 and features_val_VD.shape[1:] == features_train_MD.shape[1:],
        f"kNN got validation features {list(features_val_VD.shape)}: wanted at least one row of "
        f"{features_train_MD.shape[1]}, as in training",
    )
    check(
        1 <= k <= num_train,
        f"kNN with k = {k}: wanted 1 to {num_train}, the number of training images",
    )
    train_MD = F.normalize(features_train_MD.float(), dim=1)
    labels_train_M = labels_train_M.to(train_MD.device)
    all_votes: list[Tensor] = []
    for chunk in torch.split(features_val_VD, max(1, MAX_SIMILARITIES // num_train)):
        chunk_BD = F.normalize(chunk.to(train_MD), dim=1)
        cosine_Bk, neighbours_Bk = (chunk_BD @ train_MD.T).topk(k, dim=1)
        # Relative to the nearest one: the same ranking, and no overflow at low temperatures.
        weights_Bk = ((cosine_Bk - cosine_Bk[:, :1]) / temperature).exp()
        votes = weights_Bk.new_zeros(len(chunk), num_classes)
        all_votes.append(votes.scatter_add_(1, labels_train_M[neighbours_Bk], weights_Bk))
    return torch.cat(all_votes)


def check_features(name: str, features_MD: Tensor, labels_M: Tensor, num_classes: int) -> None:
    """Raise InputError unless there are features, one label each, all in range."""
    check(
        features_MD.ndim == 2 and len(features_MD) > 0 and labels_M.shape == features_MD.shape[:1],
        f"{name}: got features {list(features_MD.shape)} and labels {list(labels_M.shape)}: "
        "wanted [M, D] and [M] with M >= 1",
    )
    lowest, highest = int(labels_M.min()), int(labels_M.max())
    check(lowest != -1, f"{name}: some images have no label (-1): wanted labelled shards")
    check(
        lowest >= 0 and highest < num_classes,
        f"{name}: labels reach from {lowest} to {highest}: wanted 0 to {num_classes - 1}",
    )


class LinearResult(NamedTuple):
    """The class of every validation image, int64, and the choice of the L2 strength.

    `heldout_top1` is in percent on the held-out part of training, by strength. The weights and
    bias, [K, D + 1], are of the standardised features.
    """

    predicted_V: Tensor
    strength: float
    heldout_top1: dict[float, float]
    weights: Tensor
    train_MD: Tensor
    val_VD: Tensor


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
    predicted_V = predicted_classes(weights, val_VD)
    return LinearResult(predicted_V, chosen, heldout_top1, weights, train_MD, val_VD)


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
