"""Evaluations of no network: folders with predictions that a test chooses."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.evaluate.predictions import ImageSet, Predictions, write_predictions
from training.evaluate.results import Result

CLASSES = ("cat", "dog", "owl")


def made_predictions(
    right_DV: NDArray[np.bool_],
    *,
    checkpoint: str = "runs/a",
    digest: str = "aa",
    protocol: str = "knn",
    variant: str = "",
    prefix: str = "",
    val: str = "val",
    settings: dict[str, object] | None = None,
) -> Predictions:
    """Images `0.jpg` and so on, in classes by turns; a wrong prediction is the next class."""
    size = right_DV.shape[1]
    names = tuple(f"{prefix}{number}.jpg" for number in range(size))
    labels_V = np.arange(size) % len(CLASSES)
    result = Result(
        checkpoint=checkpoint,
        encoder="query",
        architecture="resnet18",
        checkpoint_digest=digest,
        train="train",
        val=val,
        train_digest="tt",
        val_digest=val,
        protocol=protocol,
        variant=variant,
        seed=0,
        name="top1",
        figure=100 * float(right_DV.mean()),
        interval=(0.0, 100.0),
        num_train=9,
        num_val=size,
        settings=settings or {"k": 20},
    )
    images = ImageSet(
        names=names,
        sha256=tuple(hashlib.sha256(name.encode()).hexdigest() for name in names),
        labels_V=labels_V,
        class_names=CLASSES,
    )
    predicted_DV = np.where(right_DV, labels_V, (labels_V + 1) % len(CLASSES))
    return Predictions(result=result, images=images, predicted_DV=predicted_DV)


def write_evaluation(folder: Path, right_DV: NDArray[np.bool_], **about: object) -> Path:
    """A folder with one more file of predictions; arguments as in `made_predictions`."""
    write_predictions(folder, made_predictions(np.atleast_2d(right_DV), **about))  # type: ignore[arg-type]
    return folder
