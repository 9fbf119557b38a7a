"""The score of an exported backbone, or of its untrained twin, on two labelled shard sets."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from pipeline.backbone import load_backbone
from pipeline.manifest import load_dataset_info
from pipeline.preparation import Preprocess
from training.evaluation import PROTOCOLS, ExtractConfig, evaluate_shards
from training.export import untrained_like


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score an exported backbone on labelled shards.

    Attributes:
        backbone: folder of the exported backbone (backbone.pth and backbone.json).
        train_shards: shards whose labels are given.
        val_shards: shards that are classified.
        protocol: what to score with.
        untrained: random weights instead: the baseline, with the same preprocessing.
        k: neighbours of kNN.
        temperature: of kNN.
        seed: of untrained weights, and of what the probe holds out of training to choose its L2.
        batch_size: images that go through the network at once.
        bf16: compute features in bfloat16: faster on a GPU, a little less exact.
    """

    backbone: Path
    train_shards: Path
    val_shards: Path
    protocol: Literal["knn", "linear", "both"] = "both"
    untrained: bool = False
    k: int = 20
    temperature: float = 0.07
    seed: int = 0
    batch_size: int = 256
    bf16: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportScore:
    """What was scored, on what, and how well.

    Attributes:
        settings: network, digests of weights and data, and whatever else the figures depend on;
            JSON values.
        figures: as `evaluate_shards` returns them.
    """

    settings: dict[str, str | float]
    figures: dict[str, float]


def score_export(config: EvaluateConfig, device: torch.device) -> ExportScore:
    """Load the export and score it, prepared as its JSON says.

    Raises:
        InputError: as `load_backbone` and `evaluate_shards` do.
    """
    network, info = load_backbone(config.backbone)
    weights = info.weights_sha256
    if config.untrained:
        network, weights = untrained_like(network, info, seed=config.seed), f"random:{config.seed}"
    preprocess = Preprocess(info.preprocessing).to(device)
    figures = evaluate_shards(
        network.to(device),
        config.train_shards,
        config.val_shards,
        config=ExtractConfig(
            view_size=info.preprocessing.view_size,
            resize=info.preprocessing.resize,
            batch_size=config.batch_size,
            num_threads=min(8, os.cpu_count() or 1),
            autocast_dtype=torch.bfloat16 if config.bf16 else None,
        ),
        prepare=preprocess.prepare,
        device=device,
        protocols=PROTOCOLS if config.protocol == "both" else (config.protocol,),
        k=config.k,
        temperature=config.temperature,
        seed=config.seed,
    )
    settings: dict[str, str | float] = {
        "protocol": config.protocol,
        "architecture": info.architecture,
        "weights": weights,
        "train_digest": load_dataset_info(config.train_shards).plan_digest,
        "val_digest": load_dataset_info(config.val_shards).plan_digest,
        "view_size": info.preprocessing.view_size,
        "device": device.type,
        "bf16": config.bf16,
        "seed": config.seed,
        "k": config.k,
        "temperature": config.temperature,
    }
    return ExportScore(settings=settings, figures=figures)
