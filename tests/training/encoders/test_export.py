"""Exports that plain torchvision and timm load, and the encoders that a run keeps."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from pipeline.backbone.folder import (
    load_backbone,
    load_info,
    weights_digest,
    write_backbone,
)
from pipeline.backbone.weights import find_weights
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import HighPass
from tests.runs import run, small_run
from tests.shard_sets import write_shard_set
from training.encoders.encoder import Backbone, build_backbone
from training.encoders.export import (
    export_backbone,
    find_checkpoint,
    load_encoder,
    load_head,
    untrained_like,
)
from training.encoders.settings import EncoderConfig
from training.evaluate.encoders import load_encoders
from training.methods.byol.settings import BYOLConfig
from training.methods.interface import unit_rows
from training.methods.moco.settings import MoCoConfig
from training.methods.registry import find_method
from training.methods.settings import MethodConfig
from training.methods.simclr.settings import SimCLRConfig

VIEWS = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def without(part: str) -> Callable[[nn.Module], nn.Module]:
    """What a person with nothing but torchvision would write."""

    def change(network: nn.Module) -> nn.Module:
        network.set_submodule(part, nn.Identity())
        return network

    return change


PLAIN = {
    "resnet18": without("fc"),
    "regnet_y_400mf": without("fc"),
    "densenet121": without("classifier"),
    "efficientnet_b0": without("classifier"),
    "mobilenet_v3_small": without("classifier"),
    "convnext_tiny": without("classifier.2"),
}
STEMS = {
    "resnet18": ("conv1", "maxpool"),
    "densenet121": ("features.conv0", "features.pool0"),
}
"""The first convolution, and the pooling behind it."""
TIMM = ("test_resnet", "test_convnext", "test_efficientnet")


def exported(folder: Path, backbone: Backbone, config: EncoderConfig, plain: nn.Module) -> Path:
    """An export, which both the plain library and this project load as the same network."""
    with torch.no_grad():
        backbone(VIEWS)  # statistics other than 0 and 1
        info = export_backbone(
            folder / "export", backbone, config, view_size=64, high_pass=None, provenance={}
        )
        assert backbone.training, "exporting changes the encoder"
        expected = backbone.eval()(VIEWS)
        state = torch.load(folder / "export" / "backbone.pth", weights_only=True)
        plain.load_state_dict(state, strict=True)
        network, read = load_backbone(folder / "export")
        # A padded small stem sums the same products in another order.
        tolerance = 1e-4 if config.stem.startswith("small") else 0.0
        for one in (plain.eval(), network):
            torch.testing.assert_close(one(VIEWS), expected, rtol=tolerance, atol=tolerance / 10)
    assert read == info
    assert (info.architecture, info.max_pool) == (config.architecture, config.max_pool)
    assert expected.shape == (2, info.feature_dim)
    again = find_weights(str(folder / "export"), config.architecture, max_pool=config.max_pool)
    assert all(torch.equal(value, state[key]) for key, value in again.state.items())
    return folder / "export"


@pytest.mark.parametrize("name", [*PLAIN, *(f"timm:{name}" for name in TIMM)])
def test_every_family_goes_into_its_plain_library_and_back(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    if name in PLAIN:
        whole = torchvision.models.get_model(name)
        plain = PLAIN[name](torchvision.models.get_model(name))
    else:
        own_name = name.removeprefix("timm:")
        whole, plain = timm.create_model(own_name), timm.create_model(own_name, num_classes=0)
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    config = EncoderConfig(architecture=name, init=str(tmp_path / "whole.pth"))
    exported(tmp_path, build_backbone(config), config, plain)


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("standard", "resnet18"),
        ("small", "resnet18"),
        ("partial", "resnet18"),
        ("small_partial", "densenet121"),
    ],
)
def test_stems_are_exported_as_plain_ones_and_known_again(
    tmp_path: Path, stem: str, name: str
) -> None:
    torch.manual_seed(0)
    config = EncoderConfig(architecture=name, stem=stem, max_pool=False)  # type: ignore[arg-type]
    first, pool = STEMS[name]
    plain = without(pool)(PLAIN[name](torchvision.models.get_model(name)))
    folder = exported(tmp_path, build_backbone(config), config, plain)
    network, info = load_backbone(folder)
    state = torch.random.get_rng_state()
    twin, again, other = (untrained_like(network, info, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    kernel = twin.get_parameter(f"network.{first}.weight")
    assert kernel.shape[-1] == (3 if stem.startswith("small") else 7)
    assert torch.equal(kernel, again.get_parameter(f"network.{first}.weight"))
    assert not torch.equal(kernel, other.get_parameter(f"network.{first}.weight"))


def test_the_preprocessing_travels_along(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet18")
    backbone, provenance = build_backbone(config), {"epoch": 20, "recipe": "small"}
    settings: dict[str, Any] = {"view_size": 64, "provenance": provenance}
    with pytest.raises(InputError, match="odd kernel"):
        export_backbone(tmp_path / "export", backbone, config, high_pass=(4, 10 / 7), **settings)
    assert list(tmp_path.iterdir()) == []
    export_backbone(tmp_path / "export", backbone, config, high_pass=(3, 10 / 7), **settings)
    info = load_info(tmp_path / "export")
    assert info.preprocessing.high_pass == HighPass(kernel=3, sigma=10 / 7)
    assert (info.preprocessing.view_size, info.preprocessing.resize) == (64, 73)
    assert info.provenance == provenance


METHODS: dict[str, MethodConfig] = {
    "moco_v2": MoCoConfig(queue_size=64, batch_norm_group=4, object_head="both"),
    "byol": BYOLConfig(batch_norm_group=4, head_width=32, predictor_width=32),
    "simclr": SimCLRConfig(batch_norm_group=4),
}


@pytest.fixture(scope="module", params=METHODS)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp(request.param)
    write_shard_set(folder / "train", num_images=16)
    write_shard_set(folder / "val", num_images=6, first_number=100)
    changes = {
        "method": METHODS[request.param],
        "encoder": EncoderConfig(architecture="resnet18", stem="small"),
    }
    run(small_run(folder / "train", folder / "run", epochs=1, **changes))
    return folder / "run"


def test_the_query_encoder_is_the_export_and_has_one_digest_wherever_it_lies(
    kept: Path, tmp_path: Path
) -> None:
    load_file = pytest.importorskip("safetensors.torch", reason="no extra export").load_file
    expected, info = load_backbone(kept / "backbone")
    for path in (kept, kept / "backbone", find_checkpoint(kept)):
        network, told = load_encoder(path)
        assert info == told
        assert torch.equal(network(VIEWS), expected(VIEWS))
    written = write_backbone(
        tmp_path / "out", network.state_dict(), info, formats=["safetensors", "timm"]
    )
    assert written == load_encoder(tmp_path / "out")[1] == info
    files = ("backbone.safetensors", "timm/model.safetensors")
    states = [load_file(tmp_path / "out" / name) for name in files]
    states.append(torch.load(kept / "backbone" / "backbone.pth", weights_only=True))
    assert {weights_digest(state) for state in states} == {info.weights_sha256}
    names = (str(kept), str(kept / "backbone" / "backbone.pth"))
    encoders = load_encoders(names, encoder="query", seed=0, device=CPU)
    assert {encoder.digest for encoder in encoders} == {info.weights_sha256}


def test_the_run_leaves_a_card_that_tells_of_it(kept: Path) -> None:
    config = json.loads((kept / "config.json").read_text())
    for folder in (kept, find_checkpoint(kept)):
        card = (folder / "backbone" / "README.md").read_text()
        assert f"| pretraining data (digest) | {config['data_digest'][:12]} |" in card
        assert "| trained | 1 epochs, 2 steps |" in card
        assert f"method {config['method']['name']}, epochs 1, batch 8, view 32, stem small" in card


def test_the_momentum_encoder(kept: Path) -> None:
    with pytest.raises(InputError, match="kept in checkpoints only"):
        load_encoder(kept / "backbone", "momentum")
    names = (str(kept), "untrained")
    if "simclr" in str(kept):
        with pytest.raises(InputError, match=r"no momentum encoder \(simclr has none"):
            load_encoders(names, encoder="momentum", seed=0, device=CPU)
        return
    network, info = load_encoder(kept, "momentum")
    query, told = load_encoder(kept)
    again, same = load_encoder(find_checkpoint(kept), "momentum")
    assert info == same
    assert torch.equal(network(VIEWS), again(VIEWS))
    assert info.provenance["encoder"] == "momentum"
    assert info.weights_sha256 != told.weights_sha256
    assert info.preprocessing == told.preprocessing
    # A copy that lags behind: another one. The small stem is exported as a plain one.
    first, second = network.get_parameter("conv1.weight"), query.get_parameter("conv1.weight")
    assert not torch.equal(first, second)
    state = torch.load(find_checkpoint(kept) / "state.pt", weights_only=True)["method"]
    (name,) = (
        key
        for key in state
        if key.startswith(("key_encoder.", "target.")) and key.endswith("network.conv1.weight")
    )
    assert torch.equal(first, nn.functional.pad(state[name], (2, 2, 2, 2)))
    encoder, twin = load_encoders(names, encoder="momentum", seed=0, device=CPU)
    assert (encoder.kind, encoder.digest) == ("momentum", info.weights_sha256)
    assert torch.equal(encoder.network(VIEWS), network(VIEWS))
    assert (twin.kind, twin.digest) == ("untrained", "random:0")


def test_the_projection_head_of_either_encoder(kept: Path) -> None:
    """The plain one, where there is an object head, too; of BYOL with batch norm."""
    state = torch.load(find_checkpoint(kept) / "state.pt", weights_only=True)["method"]
    name = next(name for name in METHODS if name in str(kept))
    backbone = build_backbone(EncoderConfig(architecture="resnet18", stem="small"))
    method = find_method(name)(METHODS[name], backbone, batch_size=8, seed=0).eval()
    method.load_state_dict(state)
    encoders = {"query": method.encoder}
    if name != "simclr":
        encoders["momentum"] = getattr(method, "target" if name == "byol" else "key_encoder")
    for kind, encoder in encoders.items():
        head, (network, _) = load_head(kept, kind), load_encoder(kept, kind)  # type: ignore[arg-type]
        assert head is not None
        expected = unit_rows(encoder.embed(VIEWS))
        torch.testing.assert_close(unit_rows(head(network(VIEWS))), expected, atol=1e-5, rtol=0)
    assert load_head(kept / "backbone", "query") is None
