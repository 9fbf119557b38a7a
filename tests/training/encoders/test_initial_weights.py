"""Weights to start from, in encoders with a standard or a small stem."""

from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.backbone.folder import write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from training.encoders.encoder import Backbone, build_backbone, plain_state_dict
from training.encoders.settings import EncoderConfig

SMALL = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)


def built(config: EncoderConfig, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(config)


@pytest.fixture(scope="module")
def standard_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision state dict with its classifier, as torchvision's own files are."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def test_init_from_a_local_file(standard_weights: Path) -> None:
    state = torch.load(standard_weights, weights_only=True)
    backbone = built(EncoderConfig(architecture="resnet18", init=str(standard_weights)))
    for name, value in plain_state_dict(backbone).items():
        assert torch.equal(value, state[name])


def test_init_from_an_export_of_a_small_stem(tmp_path: Path) -> None:
    first = built(SMALL)
    info = BackboneInfo(
        architecture="resnet18",
        feature_dim=512,
        max_pool=False,
        preprocessing=Preprocessing(view_size=64, resize=73),
    )
    write_backbone(tmp_path / "export", plain_state_dict(first), info)
    for init in ("export", "export/backbone.pth"):
        config = EncoderConfig(
            architecture="resnet18", stem="small", max_pool=False, init=str(tmp_path / init)
        )
        again = built(config, seed=9)
        for name, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
    with pytest.raises(InputError, match=r"max_pool False, wanted resnet18 with max_pool True"):
        built(EncoderConfig(architecture="resnet18", init=str(tmp_path / "export")))


def test_a_full_kernel_does_not_fit_a_small_stem(standard_weights: Path) -> None:
    config = EncoderConfig(architecture="resnet18", stem="small", init=str(standard_weights))
    with pytest.raises(InputError, match=r"full \[64, 3, 7, 7\].*standard stem"):
        built(config)


def test_a_small_kernel_does_not_fit_a_standard_stem(tmp_path: Path) -> None:
    torch.save(built(SMALL).network.state_dict(), tmp_path / "small.pth")
    config = EncoderConfig(architecture="resnet18", init=str(tmp_path / "small.pth"))
    with pytest.raises(InputError, match=r"'conv1.weight' \[64, 3, 3, 3\] instead of \[64, 3, 7"):
        built(config)
