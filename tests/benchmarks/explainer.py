"""How much of planted objects an explainer finds, by exact masks; settings chosen elsewhere.

    python -m tests.benchmarks.explainer --out FOLDER --steps 600

draws demo pictures on any backgrounds (`changed`) with three seeds, trains a small backbone with
the labels of the first ones (so that it knows the objects: what is measured is the explainer), and
an explainer without labels on the same pictures for each of the settings. The settings with the
best IoU on the second pictures are reported on the third. Each stage is kept, and not done again.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipeline.demo.pictures import KINDS, make_demo_pictures
from pipeline.images.filters import normalise
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.interface import Image, SaliencySource
from pipeline.saliency.registry import parse_saliency_source
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig
from training.explain.config import ExplainConfig
from training.explain.train import explain

LEARN, CHOOSE, REPORT = 0, 1, 2
"""Seeds of the pictures."""
VIEW, ROOM, CELLS = 32, 4, 56
ENCODER = EncoderConfig(architecture="timm:test_resnet")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "sharp": {"temperature": 0.05},
    "small": {"area_weight": 2.0},
}
Pair = tuple[Image, NDArray[np.bool_]]


def pictures(out: Path, seed: int, num: int) -> Path:
    """Demo pictures on any backgrounds; the folder of a seed."""
    folder = out / f"pictures-{seed}"
    make_demo_pictures(folder, num_train=8, num_usual=8, num_changed=num, seed=seed)
    return folder


def pairs(folder: Path) -> list[Pair]:
    """RGB pictures and their masks."""
    found = []
    for path in sorted((folder / "pictures" / "changed").rglob("*.jpg")):
        mask = folder / "masks" / path.relative_to(folder / "pictures").with_suffix(".png")
        pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB), np.uint8)
        found.append((pixels, np.asarray(cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE)) > 127))
    return found


def train_backbone(folder: Path, to: Path, epochs: int) -> None:
    """Train a classifier of the kinds on random crops and flips, and export it without its head."""
    paths = sorted((folder / "pictures" / "changed").rglob("*.jpg"))
    side = VIEW + ROOM
    sized = [
        cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
        for pixels, _ in pairs(folder)
    ]
    images = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255
    labels = torch.tensor([KINDS.index(path.parent.name) for path in paths])
    torch.manual_seed(0)
    backbone = build_backbone(ENCODER)
    whole = nn.Sequential(backbone, nn.Linear(backbone.feature_dim, len(KINDS)))
    steps = epochs * (len(images) // 64)
    optimizer = torch.optim.AdamW(whole.parameters(), weight_decay=0.05)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    right = []
    for _ in range(steps):
        rows = torch.randint(len(images), (64,))
        top, left = torch.randint(ROOM + 1, (2,)).tolist()
        seen = images[rows, :, top : top + VIEW, left : left + VIEW]
        logits = whole(normalise(seen.flip(3) if torch.rand(()) < 0.5 else seen))
        loss = F.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        right.append(float((logits.argmax(dim=1) == labels[rows]).float().mean()))
    print(f"backbone: {100 * np.mean(right[-50:]):.1f} % right on its last training crops")
    export_backbone(to, backbone, ENCODER, view_size=VIEW, high_pass=None, provenance={})


def mean_iou(source: SaliencySource, given: list[Pair]) -> float:
    """Mean IoU of maps and masks, both cut at one half, in 56 x 56 cells."""
    found = []
    for saliency, (_, mask) in zip(source([image for image, _ in given]), given, strict=True):
        kept = cv2.resize(saliency, (CELLS, CELLS), interpolation=cv2.INTER_LINEAR) >= 0.5
        true = (
            cv2.resize(mask.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA) > 0.5
        )
        found.append((kept & true).sum() / (kept | true).sum())
    return float(np.mean(found))


def main() -> None:
    """Draw, train, choose, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=30, help="of the backbone")
    parser.add_argument("--num", type=int, default=1600, help="pictures to learn from")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    given = parser.parse_args()
    learn, choose, report = (
        pictures(given.out, seed, num)
        for seed, num in ((LEARN, given.num), (CHOOSE, 200), (REPORT, 400))
    )
    shards, backbone = given.out / "shards", given.out / "backbone"
    data = learn / "pictures" / "changed"
    run_precompute(PrecomputeConfig(data=data, out=shards, saliency="uniform", labels=False))
    if not backbone.exists():
        train_backbone(learn, backbone, given.epochs)
    base = ExplainConfig(
        checkpoint=backbone, shards=shards, out=given.out, steps=given.steps, batch_size=16, width=8
    )
    found = {}
    for name in given.settings:
        out = given.out / f"{name}-{given.steps}"
        explain(replace(base, out=out, **SETTINGS[name]))
        found[name] = mean_iou(parse_saliency_source(f"explain:weights={out}"), pairs(choose))
        print(f"choose  {name:10} {found[name]:.3f}", flush=True)
    best = max(found, key=lambda name: found[name])
    for text in (f"explain:weights={given.out / f'{best}-{given.steps}'}", "boundary", "centre"):
        figure = mean_iou(parse_saliency_source(text), pairs(report))
        print(f"report  {text.split('/')[-1]:20} {figure:.3f}")


if __name__ == "__main__":
    main()
