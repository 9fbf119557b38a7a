"""Class folders, shards, encoders, cases and made-up evaluations for tests."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.images.preprocessing import Preprocess, Preprocessing
from tests.shard_sets import write_images
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig
from training.evaluate.case import Case
from training.evaluate.config import EvaluateConfig
from training.evaluate.encoders import NamedEncoder
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.results import Predictions, Result, write_predictions

NAMES = ("blue", "green", "red")
CLASSES = ("cat", "dog", "owl")
CPU = torch.device("cpu")
SIZE = 16
RESIZED = Preprocessing(view_size=SIZE, resize=18)


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


def folders(root: Path, num: int, seed: int) -> LabelledImages:
    """The pictures in class folders, opened."""
    return open_labelled(write_folders(root, num, seed))


def masked_images(
    root: Path,
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[int],
    masks: Sequence[NDArray[np.float32]],
    source: str,
) -> LabelledImages:
    """A shard set; `source` is where its maps are said to come from."""
    write_images(root, images, labels, NAMES, saliency=masks)
    info = root / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"saliency": {"source": source}}))
    return open_labelled(root)


class Colours(nn.Module):
    """A backbone that knows the mean colour, and has something to train."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW.mean(dim=(2, 3)) * self.scale


class Normed(nn.Module):
    """Mean colours through dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(), nn.BatchNorm1d(3)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.norm(self.dropout(x_BCHW.mean(dim=(2, 3))))
        return rows


@contextmanager
def left_alone(module: nn.Module) -> Iterator[None]:
    """Asserts that weights, statistics and modes stay what they are, and that nothing is drawn."""
    state = {name: (value.clone(), value.stride()) for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random_state = torch.get_rng_state()
    yield
    assert [part.training for part in module.modules()] == modes
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name][0]), name
        assert value.stride() == state[name][1], name
    assert torch.equal(torch.get_rng_state(), random_state)


def extractor_of(
    network: nn.Module,
    preprocessing: Preprocessing = RESIZED,
    **settings: Any,  # noqa: ANN401
) -> NamedEncoder:
    """A network that nobody trained, one thread."""
    given: dict[str, Any] = {
        "name": "made",
        "kind": "query",
        "info": BackboneInfo(architecture="resnet18", feature_dim=3, preprocessing=preprocessing),
        "digest": "c0",
        "device": CPU,
        "prepare": Preprocess(preprocessing).prepare,
        "view_size": preprocessing.view_size,
        "resize": preprocessing.resize,
    }
    return NamedEncoder(network=network, **(given | settings))


def encoder_of(architecture: str = "resnet18", size: int = 32) -> NamedEncoder:
    """A network of a library that nobody trained, from seed 0."""
    torch.manual_seed(0)
    network, dim = plain_network(architecture)
    seen = Preprocessing(view_size=size, resize=size)
    info = BackboneInfo(architecture=architecture, feature_dim=dim, preprocessing=seen)
    return extractor_of(network.eval(), seen, info=info, batch_size=8)


def case_of(
    network: nn.Module,
    train: LabelledImages,
    val: LabelledImages,
    preprocessing: Preprocessing = RESIZED,
    **config: Any,  # noqa: ANN401
) -> Case:
    """`extractor_of` a network on two sets; its predictions go beside the first set."""
    given: dict[str, Any] = {
        "checkpoint": ("run",),
        "train": Path("train"),
        "val": Path("val"),
        "results": Path(str(train.root)).parent / "results",
    }
    asked = EvaluateConfig(**(given | config))
    encoder = extractor_of(network.eval(), preprocessing, batch_size=asked.batch_size)
    return Case(encoder, train, val, asked)


def exported(
    folder: Path,
    architecture: str = "resnet18",
    high_pass: tuple[int, float] | None = None,
) -> Path:
    """An export of a network that nobody trained, from seed 0; its views are 32 px."""
    torch.manual_seed(0)
    config = EncoderConfig(architecture=architecture)
    backbone = build_backbone(config)
    export_backbone(folder, backbone, config, view_size=32, high_pass=high_pass, provenance={})
    return folder


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
    """Images `0.jpg` and so on, in classes by turns; a wrong prediction is the next class."""
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
