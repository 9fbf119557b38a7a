"""Evaluations of no network: folders with predictions that a test chooses."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.evaluate.predictions import Predictions, write_predictions
from training.evaluate.results import Result

CLASSES = ("cat", "dog", "owl")


def made_result(**changes: Any) -> Result:  # noqa: ANN401
    """A figure that nobody measured."""
    fields: dict[str, Any] = {
        "checkpoint": "runs/a",
        "encoder": "query",
        "architecture": "resnet18",
        "checkpoint_digest": "aa",
        "train": "flowers/train",
        "val": "flowers/val",
        "train_digest": "tt",
        "val_digest": "vv",
        "protocol": "knn",
        "seed": 0,
        "name": "top1",
        "figure": 61.25,
        "interval": (58.5, 64.0),
        "num_train": 10,
        "num_val": 5,
        "settings": {"k": 20},
    }
    return Result(**(fields | changes))


def made_predictions(
    right_DV: NDArray[np.bool_],
    *,
    prefix: str = "",
    first_label: int = 0,
    **fields: Any,  # noqa: ANN401
) -> Predictions:
    """Images `0.jpg` and so on, in classes by turns; a wrong prediction is the next class.

    Args:
        right_DV: which predictions are right.
        prefix: of the names.
        first_label: of the first image.
        fields: of the result.
    """
    size = right_DV.shape[1]
    names = [f"{prefix}{number}.jpg" for number in range(size)]
    labels_V = (np.arange(size) + first_label) % len(CLASSES)
    return Predictions(
        result=made_result(**fields),
        names_V=np.array(names),
        sha256_V=np.array([hashlib.sha256(name.encode()).hexdigest() for name in names]),
        labels_V=labels_V,
        class_names=CLASSES,
        predicted_DV=np.where(right_DV, labels_V, (labels_V + 1) % len(CLASSES)),
    )


def write_evaluation(folder: Path, right_DV: NDArray[np.bool_], **about: Any) -> Path:  # noqa: ANN401
    """A folder with one more file of predictions; arguments as in `made_predictions`."""
    write_predictions(folder, made_predictions(np.atleast_2d(right_DV), **about))
    return folder
