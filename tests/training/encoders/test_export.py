from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.backbone.folder import load_backbone
from pipeline.backbone.weights import find_weights
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import HighPass
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone, untrained_like
from training.encoders.settings import EncoderConfig


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


def without_fc(network: nn.Module) -> nn.Module:
    network.fc = nn.Identity()
    return network


def without_classifier(network: nn.Module) -> nn.Module:
    network.classifier = nn.Identity()
    return network


def without_last_linear(network: nn.Module) -> nn.Module:
    assert isinstance(network.classifier, nn.Sequential)
    network.classifier[2] = nn.Identity()
    return network


# What a person with nothing but the library would write.
PLAIN: dict[str, Callable[[nn.Module], nn.Module]] = {
    "regnet_y_400mf": without_fc,
    "densenet121": without_classifier,
    "efficientnet_b0": without_classifier,
    "mobilenet_v3_small": without_classifier,
    "convnext_tiny": without_last_linear,
}


def check_round_trip(folder: Path, name: str, whole: nn.Module, plain: nn.Module) -> None:
    """From the library's whole network to an export and back into its plain one."""
    torch.save(whole.state_dict(), folder / "whole.pth")
    config = EncoderConfig(architecture=name, init=str(folder / "whole.pth"))
    backbone = build_backbone(config)
    views = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        backbone(views)  # statistics other than 0 and 1
        expected = backbone.eval()(views)
        assert expected.shape == (2, backbone.feature_dim)
        export_backbone(
            folder / "export", backbone, config, view_size=64, high_pass=None, provenance={}
        )
        state = torch.load(folder / "export" / "backbone.pth", weights_only=True)
        plain.load_state_dict(state, strict=True)
        assert torch.equal(plain.eval()(views), expected)
        network, info = load_backbone(folder / "export")
        assert torch.equal(network(views), expected)
    assert (info.architecture, info.feature_dim) == (name, backbone.feature_dim)
    again = find_weights(str(folder / "export"), name).state
    assert all(torch.equal(value, state[key]) for key, value in again.items())


@pytest.mark.parametrize("name", PLAIN)
def test_every_family_goes_into_plain_torchvision_and_back(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    plain = PLAIN[name](torchvision.models.get_model(name))
    check_round_trip(tmp_path, name, torchvision.models.get_model(name), plain)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_timm_networks_go_into_plain_timm_and_back(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0)
    check_round_trip(tmp_path, f"timm:{name}", timm.create_model(name), plain)


@pytest.mark.parametrize("stem", ["partial", "small_partial"])
def test_stems_are_exported_as_plain_ones(tmp_path: Path, stem: str) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(architecture="densenet121", stem=stem, max_pool=False)  # type: ignore[arg-type]
    backbone = build_backbone(config).eval()
    views = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(views)
        info = export_backbone(
            tmp_path / "export", backbone, config, view_size=64, high_pass=None, provenance={}
        )
        plain = without_classifier(torchvision.models.densenet121())
        plain.set_submodule("features.pool0", nn.Identity())
        state = torch.load(tmp_path / "export" / "backbone.pth", weights_only=True)
        plain.load_state_dict(state, strict=True)
        # The padded small stem sums the same products in another order.
        torch.testing.assert_close(plain.eval()(views), expected, rtol=1e-4, atol=1e-5)
        assert not info.max_pool
        twin = untrained_like(load_backbone(tmp_path / "export")[0], info, seed=3)
        kernel = twin.state_dict()["network.features.conv0.weight"].shape[-1]
        assert kernel == (7 if stem == "partial" else 3)


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
