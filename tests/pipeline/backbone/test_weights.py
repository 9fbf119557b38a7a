"""Weights from files, exports and torchvision; what does not fit is named."""

import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from pipeline.backbone.folder import write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.backbone.weights import find_weights, load_weights, published_weights, read_state_dict
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(view_size=64, resize=73, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def made(name: str = "resnet18") -> nn.Module:
    torch.manual_seed(1)
    network: nn.Module = torchvision.models.get_model(name)
    return network


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(made().state_dict())


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def loaded(state: dict[str, Tensor], name: str = "resnet18") -> nn.Module:
    network: nn.Module = torchvision.models.get_model(name)
    network.fc = nn.Identity()
    load_weights(network, state, architecture=name, source="given", leave_out=("fc",))
    return network


def test_files_of_all_kinds_hold_the_same(state: dict[str, Tensor], tmp_path: Path) -> None:
    bare = {n: v for n, v in state.items() if not n.startswith("fc.")}
    files = {
        "whole": state,
        "bare": bare,
        "old": {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
        "distributed": {f"module.{n}": v for n, v in state.items()},
        "wrapped": {"state_dict": state, "epoch": 3},
    }
    for name, content in files.items():
        found = find_weights(str(save(tmp_path / f"{name}.pth", content)), "resnet18")
        assert (found.preprocessing, found.export) == (None, None)
        network = loaded(dict(found.state))
        assert all(torch.equal(v, bare[n]) for n, v in network.state_dict().items()), name


def test_an_export_says_what_it_is(state: dict[str, Tensor], tmp_path: Path) -> None:
    bare = {n: v for n, v in state.items() if not n.startswith("fc.")}
    info = BackboneInfo(
        architecture="resnet18", feature_dim=512, preprocessing=PREPROCESSING, max_pool=False
    )
    write_backbone(tmp_path / "run" / "backbone", bare, info)
    for place, name in (("run/backbone", "resnet18"), ("run", "")):
        found = find_weights(str(tmp_path / place), name)
        assert found.preprocessing == PREPROCESSING
        assert found.export is not None
        assert found.export.architecture == "resnet18"
        assert all(torch.equal(found.state[n], v) for n, v in bare.items())
    with pytest.raises(InputError, match="is a resnet18 with max_pool False, wanted resnet50"):
        find_weights(str(tmp_path / "run"), "resnet50")
    with pytest.raises(InputError, match="wanted resnet18 with max_pool True"):
        find_weights(str(tmp_path / "run"), "resnet18", max_pool=True)
    with pytest.raises(InputError, match=r"has no backbone.json"):
        find_weights(str(tmp_path), "")


def test_tensors_that_do_not_fit_are_named(state: dict[str, Tensor]) -> None:
    missing = {n: v for n, v in state.items() if not n.startswith("layer3.0.")}
    for wrong, words in (
        (missing, r"15 are missing, first 'layer3.0.conv1.weight'"),
        ({**state, "layer9.weight": torch.zeros(1)}, r"1 are unknown, first 'layer9.weight'"),
        (
            {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)},
            r"'conv1.weight' \[64, 3, 3, 3\] instead of \[64, 3, 7, 7\]",
        ),
    ):
        with pytest.raises(InputError, match=words):
            loaded(wrong)
    with pytest.raises(InputError, match=r"given do not fit resnet34: .*--encoder.architecture"):
        loaded(state, "resnet34")


def test_the_old_names_in_densenet_files() -> None:
    """Torchvision's own files have a dot more than its networks: norm.1 for norm1."""
    network = made("densenet121")
    state = network.state_dict()
    new_name = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    old = {new_name.sub(r"\1.\2", name): value for name, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    again = torchvision.models.densenet121()
    load_weights(again, old, architecture="densenet121", source="given", leave_out=())
    assert all(torch.equal(v, state[n]) for n, v in again.state_dict().items())


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(InputError, match=r"text\.pth is not a state dict"):
        read_state_dict(tmp_path / "text.pth")
    for content, message in (
        ([torch.zeros(1)], "holds no tensors by name but list"),
        ({"epoch": 1, "model": {}}, "'epoch' is no tensor"),
        (made(), "weights_only"),  # a pickled program, which is not run
    ):
        with pytest.raises(InputError, match=message):
            read_state_dict(save(tmp_path / "other.pth", content))


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torchvision's empty cache, and a proxy that nobody listens at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # urllib's first call builds the opener of the whole process, with the proxies of that moment.
    monkeypatch.setattr("urllib.request._opener", None)
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    return cache


def test_published_weights_come_from_torchvisions_cache(
    no_network: Path, state: dict[str, Tensor]
) -> None:
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    save(no_network / url.rpartition("/")[2], state)
    for place in ("torchvision", "torchvision:IMAGENET1K_V1", "IMAGENET1K_V1", "DEFAULT"):
        found = find_weights(place, "resnet18")
        assert found.preprocessing == Preprocessing(view_size=224, resize=256)
        assert all(torch.equal(found.state[n], v) for n, v in state.items())


def test_without_a_network_the_ways_out_are_named(no_network: Path) -> None:
    with pytest.raises(InputError) as refused:
        find_weights("torchvision", "resnet18")
    message = str(refused.value)
    assert "\n" not in message
    assert "weights IMAGENET1K_V1 of resnet18 cannot be fetched" in message
    assert "a local state dict (.pth), or the folder of a run or of an exported backbone" in message


def test_weights_of_timm_come_with_their_preprocessing_and_without_a_classifier(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError) as refused:
        find_weights("timm:resnet18.a1_in1k", "resnet18")
    message = str(refused.value)
    assert "\n" not in message
    assert "weights resnet18.a1_in1k cannot be fetched from the Hugging Face Hub" in message
    assert "a run or of an exported backbone instead, or run once where there is a net" in message

    asked: list[object] = []

    def create(name: str, *, pretrained: bool, num_classes: int) -> nn.Module:
        asked.append((name, pretrained, num_classes))
        torch.manual_seed(2)
        network: nn.Module = real(name, num_classes=num_classes)
        return network

    real = timm.create_model
    monkeypatch.setattr("pipeline.backbone.weights._find_on_hub", lambda _: None)
    monkeypatch.setattr(timm, "create_model", create)
    for place, architecture in (("timm:resnet18", "resnet18"), ("timm", "timm:resnet18")):
        found = find_weights(place, architecture)
        assert asked.pop() == ("resnet18", True, 0)
        assert found.preprocessing is not None
        assert found.preprocessing.view_size == 224
        assert found.preprocessing.resize == round(224 / 0.95)
        network = loaded(dict(found.state))  # torchvision's network has the same names
        assert all(torch.equal(v, found.state[n]) for n, v in network.state_dict().items())
    with pytest.raises(InputError, match=r"no weights 'resnet18\.none': wanted one of resnet18\."):
        find_weights("timm:resnet18.none", "resnet18")


def test_names_and_places_that_do_not_exist() -> None:
    with pytest.raises(InputError, match=r"no weights at nowhere\.pth: no such file or folder"):
        find_weights("nowhere.pth", "resnet18")
    with pytest.raises(InputError, match=r"no weights 'NOPE' for resnet18: wanted.*IMAGENET1K_V1"):
        find_weights("torchvision:NOPE", "resnet18")
    with pytest.raises(InputError, match=r"no weights for timm:a_net: name those of timm"):
        published_weights("timm:a_net", "DEFAULT")
