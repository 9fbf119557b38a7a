"""The kNN check during pretraining: every rank takes a stretch of the images, all know the result.

Shapes: M images, D features.
"""

from typing import NamedTuple

import torch
from torch import nn

from pipeline.shardset.cache import CacheConfig
from pipeline.storage.storage import Location
from training.evaluate.extract import ExtractConfig, Prepare, gathered_features
from training.evaluate.knn import knn_accuracy
from training.evaluate.labelled import open_pair


class KnnFigure(NamedTuple):
    """A kNN accuracy: top-1 in percent, and the number of validation images it is of."""

    percent: float
    num_images: int


def knn_over_ranks(
    backbone: nn.Module,
    *,
    train_root: Location,
    val_root: Location,
    cache: CacheConfig | None = None,
    config: ExtractConfig,
    prepare: Prepare,
    device: torch.device,
    k: int,
    temperature: float,
) -> KnnFigure:
    """Scores the backbone as it stands; called by every rank.

    Args:
        backbone: network in training, left as it is.
        train_root: labelled images that vote.
        val_root: labelled images that are classified; `preflight` has made sure that none of them
            is among those that vote.
        cache: where shards of a bucket lie while they are read.
        config: how images become features.
        prepare: views in [0, 1] to what the backbone wants.
        device: that computes.
        k: neighbours that vote.
        temperature: of the votes.

    Returns:
        The same on every rank.
    """
    pair = open_pair(train_root, val_root, cache)
    train, val = (
        gathered_features(backbone, images, config, prepare=prepare, device=device)
        for images in pair
    )
    percent = knn_accuracy(
        *train, *val, k=k, temperature=temperature, num_classes=len(pair[0].class_names)
    )
    return KnnFigure(percent, len(val[1]))
