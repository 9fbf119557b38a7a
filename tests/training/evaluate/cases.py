"""Class folders, shards and encoders for tests of the evaluation."""

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.backbone.folder import BackboneInfo
from pipeline.images.preprocessing import Preprocess, Preprocessing
from training.evaluate.subject import Subject

NAMES = ("blue", "green", "red")
SIZE = 16


def pictures(
    num: int, seed: int, *, contrast: int = 40
) -> tuple[list[NDArray[np.uint8]], list[int]]:
    """Noise of many sizes whose class is the channel that is brighter."""
    generator = np.random.default_rng(seed)
    images, labels = [], []
    for i in range(num):
        height, width = generator.integers(12, 40, 2)
        image = generator.integers(0, 200, (height, width, 3))
        image[..., 2 - i % 3] += contrast
        images.append(image.astype(np.uint8))
        labels.append(i % 3)
    return images, labels


def write_folders(root: Path, num: int, seed: int, names: tuple[str, ...] = NAMES) -> Path:
    """The pictures as PNGs in class folders."""
    for number, (image, label) in enumerate(zip(*pictures(num, seed), strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:04d}.png"), image[..., ::-1])
    return root


class Colours(nn.Module):
    """A backbone that knows the mean colour, and has something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3)) * self.scale


def colours_subject() -> Subject:
    """`Colours` with ImageNet's normalisation, views of 16 px."""
    preprocessing = Preprocessing(view_size=SIZE, resize=18)
    info = BackboneInfo(
        architecture="resnet18", feature_dim=3, preprocessing=preprocessing, weights_sha256="c0"
    )
    return Subject(
        name="colours",
        encoder="query",
        network=Colours().eval(),
        info=info,
        digest="c0",
        prepare=Preprocess(preprocessing).prepare,
    )
