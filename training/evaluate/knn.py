"""Weighted k-nearest-neighbour classification of frozen features.

Source: Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance
Discrimination", arXiv 1805.01978, section 3.4.

Shapes: M training images, V validation images, D features.
"""

import torch
import torch.nn.functional as F

from pipeline.core.errors import check
from training.evaluate.case import Case
from training.evaluate.results import Result

MAX_SIMILARITIES = 2**26
"""Held at once, which bounds the memory: 256 MiB of float32."""


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
    features_train_MD: torch.Tensor,
    labels_train_M: torch.Tensor,
    features_val_VD: torch.Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> torch.Tensor:
    """Let the k most similar training images vote: weight exp(cosine / temperature).

    Takes float [M, D], int64 [M] in 0 .. num_classes - 1 and float [V, D], rows of any length.

    Returns:
        Predicted class int64 [V]; among equal votes the lower one.

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
    predictions: list[torch.Tensor] = []
    for chunk in torch.split(features_val_VD, max(1, MAX_SIMILARITIES // num_train)):
        chunk_BD = F.normalize(chunk.to(train_MD), dim=1)
        cosine_Bk, neighbours_Bk = (chunk_BD @ train_MD.T).topk(k, dim=1)
        # Relative to the nearest one: the same ranking, and no overflow at low temperatures.
        weights_Bk = ((cosine_Bk - cosine_Bk[:, :1]) / temperature).exp()
        votes = weights_Bk.new_zeros(len(chunk), num_classes)
        votes.scatter_add_(1, labels_train_M[neighbours_Bk], weights_Bk)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def check_features(
    name: str, features_MD: torch.Tensor, labels_M: torch.Tensor, num_classes: int
) -> None:
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
