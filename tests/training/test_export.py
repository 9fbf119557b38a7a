from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.backbone import load_backbone
from pipeline.errors import InputError
from pipeline.preparation import HighPass
from training.encoder import EncoderConfig, build_backbone
from training.export import export_backbone


@pytest.mark.parametrize("max_pool", [True, False])
@pytest.mark.parametrize("stem", ["standard", "small"])
def test_loads_with_plain_torchvision(tmp_path: Path, stem: str, max_pool: bool) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(architecture="resnet18", stem=stem, max_pool=max_pool)  # type: ignore[arg-type]
    backbone = build_backbone(config)
    backbone(torch.randn(8, 3, 32, 32))  # statistics other than 0 and 1
    info = export_backbone(
        tmp_path / "export", backbone, config, view_size=64, high_pass=None, provenance={}
    )
    assert backbone.training, "exporting leaves the encoder as it is"

    network = torchvision.models.resnet18()
    network.fc = nn.Identity()
    if not info.max_pool:
        network.maxpool = nn.Identity()
    state = torch.load(tmp_path / "export" / "backbone.pth", weights_only=True)
    network.load_state_dict(state, strict=True)

    views = torch.randn(3, 3, 64, 64)
    expected = backbone.eval()(views)
    # A small stem's products are summed in another order; a standard stem is the same network.
    tolerance = {"rtol": 0, "atol": 0} if stem == "standard" else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(network.eval()(views), expected, **tolerance)
    torch.testing.assert_close(load_backbone(tmp_path / "export")[0](views), expected, **tolerance)


def test_the_preprocessing_travels_along(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
    written = export_backbone(
        tmp_path / "export",
        build_backbone(config),
        config,
        view_size=64,
        high_pass=(3, 10 / 7),
        provenance={"epoch": 20, "recipe": "small"},
    )
    info = load_backbone(tmp_path / "export")[1]
    assert info == written
    assert info.preprocessing.high_pass == HighPass(kernel=3, sigma=10 / 7)
    assert (info.preprocessing.view_size, info.preprocessing.resize) == (64, 73)
    assert not info.max_pool
    assert info.provenance == {"epoch": 20, "recipe": "small"}


def test_bad_high_pass_writes_nothing(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet18")
    with pytest.raises(InputError, match="odd kernel"):
        export_backbone(
            tmp_path / "export",
            build_backbone(config),
            config,
            view_size=64,
            high_pass=(4, 1.0),
            provenance={},
        )
    assert list(tmp_path.iterdir()) == []
