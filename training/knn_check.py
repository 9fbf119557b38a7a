"""The kNN check during pretraining: every rank takes a stretch of the images, all know the result.

Shapes: M images, D features.
"""

from pathlib import Path

import torch
from torch import nn

from training.distributed import gather_rows_of_any_number, rank, world_size
from training.evaluation import (
    ExtractConfig,
    Features,
    Prepare,
    labelled_pair,
    score_features,
    shard_features,
)


def knn_over_ranks(
    backbone: nn.Module,
    *,
    train_root: Path,
    val_root: Path,
    config: ExtractConfig,
    prepare: Prepare,
    device: torch.device,
    k: int,
    temperature: float,
) -> float:
    """Scores the backbone as it stands; called by every rank.

    Args:
        backbone: network in training, left as it is.
        train_root: labelled shards whose images vote.
        val_root: labelled shards that are classified.
        config: how images become features.
        prepare: views in [0, 1] to what the backbone wants.
        device: that computes.
        k: neighbours that vote.
        temperature: of the votes.

    Returns:
        Top-1 in percent, the same on every rank.
    """
    readers = labelled_pair(train_root, val_root)
    train, val = (
        _gathered(
            shard_features(
                backbone,
                reader,
                config,
                prepare=prepare,
                device=device,
                rank=rank(),
                world_size=world_size(),
            ),
            device,
        )
        for reader in readers
    )
    figures = score_features(
        train,
        val,
        num_classes=len(readers[0].info.class_names),
        protocols=("knn",),
        k=k,
        temperature=temperature,
    )
    return figures["knn"]


def _gathered(features: Features, device: torch.device) -> Features:
    features_MD, labels_M = (gather_rows_of_any_number(part) for part in features)
    return features_MD.to(device), labels_M
