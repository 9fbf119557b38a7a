"""Score an exported backbone on labelled shards: weighted kNN and the fast linear probe."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import torch
import tyro

from jobs.cli import main
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


def run() -> None:
    """Parse the command line, evaluate, print a table and one line of JSON."""
    config = tyro.cli(EvaluateConfig, prog="jobs/evaluate.py")
    cv2.setNumThreads(1)  # the decoding threads are the parallelism
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network, info = load_backbone(config.backbone)
    weights = info.weights_sha256
    if config.untrained:
        network, weights = untrained_like(network, info, seed=config.seed), f"random:{config.seed}"
    extract = ExtractConfig(
        view_size=info.preprocessing.view_size,
        resize=info.preprocessing.resize,
        batch_size=config.batch_size,
        num_threads=min(8, os.cpu_count() or 1),
        autocast_dtype=torch.bfloat16 if config.bf16 else None,
    )
    figures = evaluate_shards(
        network.to(device),
        config.train_shards,
        config.val_shards,
        config=extract,
        prepare=Preprocess(info.preprocessing).to(device).prepare,
        device=device,
        protocols=PROTOCOLS if config.protocol == "both" else (config.protocol,),
        k=config.k,
        temperature=config.temperature,
        seed=config.seed,
    )
    print(
        f"{info.architecture}, weights {weights[:12]}, {figures['num_val']} images, {device.type}"
    )
    for name in (name for name in PROTOCOLS if name in figures):
        print(f"  {name:8} top-1 {figures[name]:6.2f} %")
    settings = {"weights": weights, "k": config.k, "temperature": config.temperature}
    for name, root in (("train_digest", config.train_shards), ("val_digest", config.val_shards)):
        settings[name] = load_dataset_info(root).plan_digest
    print(json.dumps({"protocol": config.protocol, "seed": config.seed, **settings, **figures}))


if __name__ == "__main__":
    main(run)
