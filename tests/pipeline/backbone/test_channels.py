"""Removing a channel is zeroing it; a narrower export is read, and its card's code loads it."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from pipeline.backbone.channels import Inner, inner_channels, keep_channels
from pipeline.backbone.folder import load_backbone, write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.backbone.weights import find_weights
from pipeline.core.architectures import plain_network
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from training.encoders.export import untrained_like

NETWORKS = ["resnet18", "resnet50", "convnext_tiny", "timm:test_resnet"]
PREPROCESSING = Preprocessing(view_size=64, resize=73)


def drawn(architecture: str) -> nn.Module:
    """A network with statistics and scales that say something."""
    if architecture.startswith("timm:"):
        pytest.importorskip("timm", reason="the extra timm is not installed")
    torch.manual_seed(0)
    network, _ = plain_network(architecture)
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.uniform_(-0.2, 0.2)
        elif value.ndim == 1 or name.endswith("layer_scale"):
            value.uniform_(0.5, 1.5)  # some start at 0
    return network.eval()


def halves(inner: list[Inner]) -> dict[Inner, Tensor]:
    """A random half of every block's channels, rising."""
    torch.manual_seed(1)
    return {one: torch.randperm(one.width)[: one.width // 2].sort().values for one in inner}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_removing_a_channel_is_zeroing_it(architecture: str) -> None:
    network, views = drawn(architecture), torch.randn(2, 3, 64, 64)
    kept = halves(inner_channels(network, architecture))
    narrower = copy.deepcopy(network)
    for one, kept_C in kept.items():
        keep_channels(narrower, one, kept_C)

        def zero(
            layer: nn.Module, inputs: tuple[Tensor], one: Inner = one, kept_C: Tensor = kept_C
        ) -> Tensor:
            stays_C = torch.zeros(one.width).index_fill(0, kept_C, 1)
            is_image = isinstance(layer, nn.Conv2d)
            return inputs[0] * (stays_C[:, None, None] if is_image else stays_C)

        network.get_submodule(one.taken_by).register_forward_pre_hook(zero)
    with torch.no_grad():
        whole, expected, got = drawn(architecture)(views), network(views), narrower(views)
    scale = float(expected.abs().max())
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * scale)
    assert float((expected - whole).abs().max()) > 0.01 * scale, "the channels do nothing"
    left = inner_channels(narrower, architecture)
    assert [one.width for one in left] == [one.width // 2 for one in kept]
    maker = narrower.get_submodule(left[0].made_by)
    assert f"{left[0].width}" in repr(maker), "layers say how wide they are"


@pytest.mark.parametrize(
    "architecture", ["mobilenet_v3_small", "resnext50_32x4d", "densenet121", "timm:resnetblur18"]
)
def test_other_networks_are_refused(architecture: str) -> None:
    with pytest.raises(InputError, match=r"cannot be removed: wanted one of .*resnet18.*timm"):
        inner_channels(drawn(architecture), architecture)


def written(folder: Path, architecture: str, *formats: str) -> tuple[nn.Module, BackboneInfo]:
    network = drawn(architecture)
    kept = halves(inner_channels(network, architecture))
    for one, kept_C in kept.items():
        keep_channels(network, one, kept_C)
    _, feature_dim = plain_network(architecture)
    info = BackboneInfo(
        architecture=architecture,
        feature_dim=feature_dim,
        preprocessing=PREPROCESSING,
        channels={one.made_by: len(kept_C) for one, kept_C in kept.items()},
    )
    return network, write_backbone(folder, network.state_dict(), info, formats=formats)


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_narrower_export_is_read_and_its_card_loads_it(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, info = written(tmp_path / "out", architecture)
    again, read = load_backbone(tmp_path / "out")
    views = torch.randn(2, 3, 64, 64)
    assert read == info
    assert torch.equal(again(views), network(views))
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"**A plain {architecture} cannot load these weights**" in card
    monkeypatch.chdir(tmp_path / "out")
    made: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], made)
    assert torch.equal(made["network"](views), network(views))
    random = untrained_like(again, info, seed=0)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    inside = {n.removeprefix("network."): v.shape for n, v in random.state_dict().items()}
    assert inside == shapes


def test_what_a_narrower_export_is_not(tmp_path: Path) -> None:
    written(tmp_path, "resnet18")
    plain = torchvision.models.resnet18()
    plain.fc = nn.Identity()
    with pytest.raises(RuntimeError, match=r"size mismatch for layer1\.0\.conv1"):
        plain.load_state_dict(torch.load(tmp_path / "backbone.pth", weights_only=True))
    with pytest.raises(InputError, match=r"fewer inner channels.*cannot start from"):
        find_weights(str(tmp_path), "resnet18")
    with pytest.raises(InputError, match=r"fewer inner channels.*torchvision, safetensors or onnx"):
        written(tmp_path, "resnet18", "timm")
    file = tmp_path / "backbone.json"
    for channels, message in (
        ({"conv1": 3}, "3 inner channels of 'conv1' do not fit resnet18: wanted 1 to 0"),
        ({"layer1.0.conv1": 65}, "wanted 1 to 64"),
        ({"layer1.0.conv1": 0}, "wanted 1 to 64"),
        ({"layer1.0.conv1": 31}, "does not fit resnet18"),
        (3, "incomplete or damaged"),
    ):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"channels": channels}))
        with pytest.raises(InputError, match=message):
            load_backbone(tmp_path)
