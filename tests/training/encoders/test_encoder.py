"""Networks, their first weights, their stems, and projection heads."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.core.errors import InputError
from training.encoders import encoder
from training.encoders.encoder import Backbone, build_backbone, plain_state_dict, projection_head
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig
from training.encoders.stem import with_mask

SMALL = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
STANDARD = EncoderConfig(architecture="resnet18")


def stem(network: nn.Module) -> nn.Conv2d:
    assert isinstance(network.conv1, nn.Conv2d)
    return network.conv1


def built(config: EncoderConfig, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(config)


def test_the_seed_decides_the_weights_and_an_exported_state_is_a_copy() -> None:
    first, again, other = built(SMALL, 0), built(SMALL, 0), built(SMALL, 1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(stem(first.network).weight, stem(other.network).weight)
    state = plain_state_dict(built(STANDARD))
    assert not any(name.startswith(("fc.", "network.")) for name in state)
    before = {name: value.clone() for name, value in plain_state_dict(first).items()}
    state = plain_state_dict(first)
    with torch.no_grad():
        stem(first.network).weight.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in state.items())


def test_weights_to_start_from_are_torchvisions_or_an_export_s(tmp_path: Path) -> None:
    torch.manual_seed(5)
    state = torchvision.models.resnet18().state_dict()  # with its classifier
    torch.save(state, tmp_path / "whole.pth")
    backbone = built(replace(STANDARD, init=str(tmp_path / "whole.pth")))
    for name, value in plain_state_dict(backbone).items():
        assert torch.equal(value, state[name])
    first, folder = built(SMALL), tmp_path / "export"
    export_backbone(folder, first, SMALL, view_size=64, high_pass=None, provenance={})
    for init in (folder, folder / "backbone.pth"):
        again = built(replace(SMALL, init=str(init)), seed=9)
        for name, value in first.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])
    torch.save(first.network.state_dict(), tmp_path / "small.pth")
    for stem_name, file, message in (
        ("standard", "export", r"max_pool False, wanted resnet18 with max_pool True"),
        ("small", "whole.pth", r"full \[64, 3, 7, 7\].*standard stem"),
        ("standard", "small.pth", r"'conv1.weight' \[64, 3, 3, 3\] instead of \[64, 3, 7"),
    ):
        with pytest.raises(InputError, match=message):
            built(replace(STANDARD, stem=stem_name, init=str(tmp_path / file)))  # type: ignore[arg-type]


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"'resnet19'.*resnet18"):
        EncoderConfig(architecture="resnet19")
    with pytest.raises(InputError, match=r"'tiny'.*standard, small, partial, small_partial"):
        EncoderConfig(stem="tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_projection_heads(num_layers: int, batch_norm: bool) -> None:
    torch.manual_seed(0)
    head = projection_head(16, 32, 8, num_layers=num_layers, batch_norm=batch_norm)
    x = torch.randn(10, 16)
    expected, linear = x, [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [32] * (num_layers - 1) + [8]
    for layer in linear[:-1]:
        expected = expected @ layer.weight.T
        if batch_norm:
            assert "bias" not in dict(layer.named_parameters()), "a batch norm has its own"
            variance = expected.var(0, correction=0)
            expected = (expected - expected.mean(0)) / (variance + 1e-5).sqrt()
        else:
            expected = expected + layer.bias
        expected = expected.clamp_min(0)
    torch.testing.assert_close(head(x), expected @ linear[-1].weight.T + linear[-1].bias)


def test_drop_path_is_a_function_of_the_seed() -> None:
    """The loop seeds torch's generator at every step; ConvNeXt drops whole blocks by it."""
    backbone = built(EncoderConfig(architecture="convnext_tiny"))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())
    views = torch.randn(2, 3, 32, 32)
    outputs = []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            outputs.append(backbone(views))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_features_in_bfloat16_and_channels_last(name: str) -> None:
    backbone = built(EncoderConfig(architecture=name, stem="partial")).eval()
    views = torch.randn(2, 3, 64, 64)
    mask = torch.rand(2, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3) < 0.3
    with torch.no_grad():
        expected = backbone(with_mask(views, mask))
        last = backbone.to(memory_format=torch.channels_last)
        carried = with_mask(views.contiguous(memory_format=torch.channels_last), mask)
        assert carried.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last(carried), expected, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            narrow = last(carried).float()
    # bfloat16 keeps 8 bits: an error of 2 ** -9 a step, over dozens of layers.
    assert (narrow - expected).norm() < 0.05 * expected.norm()


def test_compiled_is_the_same_network_and_so_is_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced, run without generated code: what is compiled is torch's business."""
    runs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., object]:
        def run(*arguments: object) -> object:
            runs.append(len(arguments))
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(encoder, "COMPILER", backend)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    views = torch.randn(4, 3, 8, 8)
    expected = Backbone(copy.deepcopy(network), 5)(views)
    assert runs == []
    backbone = Backbone(network, 5, compiled=True)
    twin = copy.deepcopy(backbone)
    for number, one in enumerate((backbone, twin), start=1):
        assert torch.equal(one(views), expected)
        assert len(runs) == number, "it ran uncompiled"
    assert backbone.state_dict().keys() == Backbone(network, 5).state_dict().keys()
