"""Planted pictures, one coloured thing each among grey ones, and networks that know colours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.images.preprocessing import Preprocessing
from tests.shard_sets import write_images
from tests.training.evaluate.cases import extractor_of
from training.evaluate.encoders import NamedEncoder
from training.explain import train
from training.explain.config import ExplainConfig

SIDE, VIEW = 64, 32
HUES = np.eye(3)[[0, 0, 1, 1, 2, 2]] * 0.7 + np.eye(3)[[0, 1, 1, 2, 2, 0]] * 0.5 + 0.1
"""RGB in [0, 1], 60 degrees apart."""
SEEN = Preprocessing(view_size=VIEW, resize=36)


def planted(number: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A coloured disc or box between two grey ones on grey noise, and its exact mask."""
    rng = np.random.default_rng(number)
    pixels = rng.normal(0.5, 0.06, (SIDE, SIDE, 1)).repeat(3, axis=2)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for thing in range(3):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        radius = int(rng.integers(9, 18))
        x, y = (int(v) for v in rng.integers(radius + 1, SIDE - radius - 1, 2))
        if rng.random() < 0.5:
            cv2.circle(mask, (x, y), radius, 1, -1)
        else:
            cv2.rectangle(mask, (x - radius, y - radius), (x + radius, y + radius // 2), 1, -1)
        colour = HUES[number % len(HUES)] if thing == 2 else np.full(3, rng.uniform(0.1, 0.9))
        noise = rng.normal(0, 0.04, (SIDE, SIDE, 1))
        pixels = np.where(mask[..., None] == 1, colour + noise, pixels)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8), mask.astype(np.float32)


class Hues(nn.Module):
    """How much of each of six hues a view has, and a constant; grey pixels say nothing.

    The hues are shifted towards the next ones by a share.
    """

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.known = nn.Conv2d(3, len(HUES), 1)
        hues = HUES + shift * (np.roll(HUES, -1, axis=0) - HUES)
        opponent = torch.tensor(hues - hues.mean(axis=1, keepdims=True), dtype=torch.float32)
        with torch.no_grad():
            self.known.weight.copy_(opponent[:, :, None, None])
            self.known.bias.fill_(-0.3)  # type: ignore[union-attr]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        hues_BD = self.known(x_BCHW).relu().mean(dim=(2, 3))
        return nn.functional.pad(hues_BD, (0, 1), value=0.1)


def encoders(first: nn.Module, second: nn.Module) -> list[NamedEncoder]:
    """The backbone and the second encoder, in evaluation mode."""
    return [
        extractor_of(network.eval(), SEEN, digest=type(network).__name__)
        for network in (first, second)
    ]


def plant(monkeypatch: pytest.MonkeyPatch, first: nn.Module, second: nn.Module) -> None:
    """Networks that nobody exported, in the place of the checkpoints that a config names."""
    monkeypatch.setattr(train, "load_encoders", lambda *_, **__: encoders(first, second))


def write_planted(root: Path, num: int = 96) -> Path:
    write_images(root, [planted(number)[0] for number in range(num)], [0] * num)
    return root


def small_config(root: Path, **changes: Any) -> ExplainConfig:  # noqa: ANN401
    """Of the shards `root / shards` into `root / out`."""
    given: dict[str, Any] = {
        "checkpoint": Path("hues"),
        "shards": root / "shards",
        "out": root / "out",
        "second": "other",
        "prototypes": 6,
        "width": 8,
        "batch_size": 8,
        "lr": 0.02,
    }
    return ExplainConfig(**(given | changes))


def iou(maps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.float32]]) -> float:
    """Mean intersection over union of maps and masks, both cut at one half, in 56 x 56 cells."""
    found = []
    for saliency, mask in zip(maps, masks, strict=True):
        kept = cv2.resize(saliency, (56, 56), interpolation=cv2.INTER_LINEAR) >= 0.5
        truth = cv2.resize(mask, (56, 56), interpolation=cv2.INTER_AREA) > 0.5
        found.append((kept & truth).sum() / (kept | truth).sum())
    return float(np.mean(found))
