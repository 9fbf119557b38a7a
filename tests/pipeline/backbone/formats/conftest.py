"""An export with a high-pass filter, and images to try every format on."""

from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from pipeline.backbone.image_encoder import ImageEncoder, load_image_encoder
from tests.shard_sets import picture
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig

KINDS = ("made", "real")


def export(folder: Path, architecture: str, *, high_pass: tuple[int, float] | None) -> Path:
    """An export whose batch norms have seen something."""
    torch.manual_seed(0)
    config = EncoderConfig(architecture=architecture)
    backbone = build_backbone(config)
    with torch.no_grad():
        backbone(torch.randn(8, 3, 64, 64))
    export_backbone(
        folder, backbone, config, view_size=64, high_pass=high_pass, provenance={"step": 7}
    )
    return folder


@pytest.fixture(scope="session")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 that wants high-passed views."""
    return export(tmp_path_factory.mktemp("filtered") / "export", "resnet18", high_pass=(3, 1.4))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 without a filter."""
    return export(tmp_path_factory.mktemp("plain") / "export", "resnet18", high_pass=None)


@pytest.fixture(scope="session", params=KINDS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image files of many sizes: made ones, and photographs where there are some."""
    if request.param == "real":
        shared: Path = request.getfixturevalue("shared_data")
        folders = sorted((shared / "imagenette160" / "val").iterdir())
        return [sorted(folder.iterdir())[0] for folder in folders[:6]]
    folder = tmp_path_factory.mktemp("pictures")
    made = []
    for number in range(4):
        made.append(folder / f"{number}.png")
        cv2.imwrite(str(made[-1]), picture(number)[0][..., ::-1])
    return made


@pytest.fixture
def images(files: list[Path]) -> list[Tensor]:
    return [decode_image(str(file), ImageReadMode.RGB) for file in files]


def features(encoder: ImageEncoder, images: list[Tensor]) -> Tensor:
    """What every format has to give."""
    with torch.no_grad():
        return torch.cat([encoder(image) for image in images])


@pytest.fixture
def expected(filtered: Path, images: list[Tensor]) -> Tensor:
    """Features of the filtered export."""
    return features(load_image_encoder(filtered), images)
