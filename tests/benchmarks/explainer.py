"""How much of planted objects an explainer finds, by exact masks: demo pictures on any backgrounds.

    python -m tests.benchmarks.explainer --out FOLDER --steps 200

A small backbone learns the kinds with labels, so that it knows the objects: what is measured is the
explainer. It learns without labels, on the same pictures, with each of three settings. The best on
pictures of a second seed is reported on a third. The same command goes on after an interruption.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.demo.pictures import KINDS, make_demo_pictures
from pipeline.images.filters import normalise
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.registry import parse_saliency_source
from pipeline.saliency.scoring import pair_up, read_pair
from tests.training.explain.planted import iou
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig
from training.explain.config import ExplainConfig
from training.explain.train import explain

NUM = {"learn": 1600, "choose": 200, "report": 400}
"""Pictures of each part; its place is the seed."""
VIEW, ROOM, EPOCHS, BATCH = 32, 4, 10, 64
ENCODER = EncoderConfig(architecture="timm:test_resnet")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "sharp": {"temperature": 0.05},
    "small": {"area_weight": 2.0},
}


def train_backbone(folder: Path, to: Path) -> None:
    """Train a classifier of the kinds on random crops and flips; export it without its head."""
    paths, side = sorted(folder.rglob("*.jpg")), VIEW + ROOM
    read = (np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8) for path in paths)
    sized = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in read]
    images = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([KINDS.index(path.parent.name) for path in paths])
    torch.manual_seed(0)
    backbone = build_backbone(ENCODER)
    whole = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, len(KINDS)))
    steps, right = EPOCHS * (len(images) // BATCH), []
    optimizer = torch.optim.AdamW(whole.parameters(), weight_decay=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        top, left = torch.randint(ROOM + 1, (2,)).tolist()
        seen = images[rows, :, top : top + VIEW, left : left + VIEW]
        logits = whole(normalise(seen.flip(3) if torch.rand(()) < 0.5 else seen))
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
        rates.step()
        right.append(float((logits.argmax(dim=1) == labels[rows]).float().mean()))
    print(f"backbone: {np.mean(right[-50:]):.1%} right of its last training crops")
    export_backbone(to, backbone, ENCODER, view_size=VIEW, high_pass=None, provenance={})


def mean_iou(text: str, folder: Path) -> float:
    """IoU of a source on the pictures of a part."""
    files, _ = pair_up(folder / "pictures" / "changed", folder / "masks" / "changed")
    images, masks = zip(*map(read_pair, files), strict=True)
    maps = parse_saliency_source(text)(images)
    return iou(maps, [mask.astype(np.float32) for mask in masks])


def main() -> None:
    """Draw, train, choose, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    out, steps = vars(parser.parse_args()).values()
    parts = {name: out / name for name in NUM}
    for seed, (name, num) in enumerate(NUM.items()):
        make_demo_pictures(parts[name], num_train=8, num_usual=8, num_changed=num, seed=seed)
    shards, backbone, data = out / "shards", out / "backbone", parts["learn"] / "pictures/changed"
    run_precompute(PrecomputeConfig(data=data, out=shards, saliency="uniform", labels=False))
    if not backbone.exists():
        train_backbone(data, backbone)
    found: dict[str, float] = {}
    base = ExplainConfig(checkpoint=backbone, shards=shards, out=out, steps=steps, batch_size=16)
    for name, settings in SETTINGS.items():
        text = f"explain:weights={out / name}"
        if not explain(replace(base, out=out / name, width=8, **settings)):
            sys.exit("stopped: the same command goes on")
        found[text] = mean_iou(text, parts["choose"])
        print(f"choose  {name:10} {found[text]:.3f}", flush=True)
    for text in (max(found, key=lambda one: found[one]), "boundary", "centre"):
        print(f"report  {text.rpartition('/')[2]:10} {mean_iou(text, parts['report']):.3f}")


if __name__ == "__main__":
    main()
