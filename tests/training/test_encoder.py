from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from pipeline.backbone import BackboneInfo, write_backbone
from pipeline.errors import InputError
from pipeline.preparation import Preprocessing
from training.encoder import (
    Backbone,
    EncoderConfig,
    build_backbone,
    plain_state_dict,
    projection_head,
)

SMALL = EncoderConfig(architecture="resnet18", stem="small", max_pool=False)
STANDARD = EncoderConfig(architecture="resnet18")


def stem(network: nn.Module) -> nn.Conv2d:
    assert isinstance(network.conv1, nn.Conv2d)
    return network.conv1


def built(config: EncoderConfig, seed: int = 0) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(config)


def plain(state: dict[str, torch.Tensor], *, max_pool: bool) -> nn.Module:
    """What a person with nothing but torchvision would write."""
    network: nn.Module = torchvision.models.resnet18()
    network.fc = nn.Identity()
    if not max_pool:
        network.maxpool = nn.Identity()
    network.load_state_dict(state, strict=True)
    return network.eval()


@pytest.fixture(scope="module")
def standard_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A torchvision state dict with its classifier, as torchvision's own files are."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    return file


def test_same_seed_same_weights() -> None:
    first, again, other = built(SMALL, 0), built(SMALL, 0), built(SMALL, 1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(stem(first.network).weight, stem(other.network).weight)


@pytest.mark.parametrize(("name", "kernel"), [("standard", 7), ("small", 3)])
@pytest.mark.parametrize("max_pool", [True, False])
def test_stems(name: str, kernel: int, max_pool: bool) -> None:
    config = EncoderConfig(architecture="resnet18", stem=name, max_pool=max_pool)  # type: ignore[arg-type]
    backbone = built(config).eval()
    assert stem(backbone.network).weight.shape == (64, 3, kernel, kernel)
    assert isinstance(backbone.network.maxpool, nn.MaxPool2d if max_pool else nn.Identity)
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, backbone.feature_dim) == (2, 512)


@pytest.mark.parametrize("max_pool", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (63, 65), (33, 40), (7, 9)])
def test_padded_small_stem_is_the_same_function(size: tuple[int, int], max_pool: bool) -> None:
    backbone = built(EncoderConfig(architecture="resnet18", stem="small", max_pool=max_pool))
    backbone(torch.randn(8, 3, 32, 32))  # statistics other than 0 and 1
    backbone.eval()
    network = plain(plain_state_dict(backbone), max_pool=max_pool)
    views = torch.randn(2, 3, *size)
    # The same products in another order of summation: float32 rounding, no more.
    torch.testing.assert_close(
        stem(network)(views), stem(backbone.network)(views), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(network(views), backbone(views), rtol=1e-4, atol=1e-5)


def test_state_dict_is_a_copy() -> None:
    backbone = built(STANDARD)
    state = plain_state_dict(backbone)
    assert not any(name.startswith(("fc.", "network.")) for name in state)
    before = state["conv1.weight"].clone()
    with torch.no_grad():
        stem(backbone.network).weight.add_(1)
    assert torch.equal(state["conv1.weight"], before)


@pytest.mark.parametrize("with_fc", [True, False])
def test_init_from_a_local_file(standard_weights: Path, tmp_path: Path, with_fc: bool) -> None:
    state = torch.load(standard_weights, weights_only=True)
    file = standard_weights
    if not with_fc:
        file = tmp_path / "headless.pth"
        torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, file)
    backbone = built(EncoderConfig(architecture="resnet18", init=str(file)))
    for name, value in plain_state_dict(backbone).items():
        assert torch.equal(value, state[name])


def test_old_files_lack_the_batch_counters(standard_weights: Path, tmp_path: Path) -> None:
    state = torch.load(standard_weights, weights_only=True)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "old.pth")
    backbone = built(EncoderConfig(architecture="resnet18", init=str(tmp_path / "old.pth")))
    assert torch.equal(backbone.state_dict()["network.conv1.weight"], state["conv1.weight"])


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
    with pytest.raises(InputError, match=r"'conv1.weight' is \[64, 3, 3, 3\].*\[64, 3, 7, 7\]"):
        built(config)


def test_weights_of_another_network(standard_weights: Path) -> None:
    config = EncoderConfig(architecture="resnet34", init=str(standard_weights))
    with pytest.raises(InputError, match=r"has no 'layer1\.2\.conv1\.weight'"):
        built(config)
    config = EncoderConfig(architecture="resnet50", init=str(standard_weights))
    message = r"'layer1\.0\.conv1\.weight' is \[64, 64, 3, 3\], the encoder wants \[64, 64, 1, 1\]"
    with pytest.raises(InputError, match=message):
        built(config)


def test_unknown_key(standard_weights: Path, tmp_path: Path) -> None:
    state = torch.load(standard_weights, weights_only=True) | {"queue": torch.zeros(3)}
    torch.save(state, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"has 'queue', which the encoder does not have"):
        built(EncoderConfig(architecture="resnet18", init=str(tmp_path / "more.pth")))


def test_files_that_are_no_state_dict(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3, "state_dict": {"a": torch.zeros(1)}}, tmp_path / "nested.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for name, message in (
        ("text.pth", r"text\.pth is not a state dict"),
        ("nested.pth", r"no plain state dict.*epoch, state_dict"),
        ("list.pth", r"no plain state dict.*list"),
        ("nowhere.pth", r"nowhere\.pth: no such file or folder"),
    ):
        with pytest.raises(InputError, match=message):
            built(EncoderConfig(architecture="resnet18", init=str(tmp_path / name)))


def test_published_weights_from_torchvisions_cache(
    standard_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (cache / url.rpartition("/")[2]).write_bytes(standard_weights.read_bytes())
    state = torch.load(standard_weights, weights_only=True)
    for init in ("torchvision", "torchvision:IMAGENET1K_V1"):
        backbone = built(EncoderConfig(architecture="resnet18", init=init))
        assert torch.equal(backbone.state_dict()["network.conv1.weight"], state["conv1.weight"])


def test_published_weights_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):  # nobody listens there: a network that is down
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"IMAGENET1K_V1.*local file.*network") as caught:
        built(EncoderConfig(architecture="resnet18", init="torchvision"))
    assert "\n" not in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(InputError, match=r"'IMAGENET22K'.*IMAGENET1K_V1"):
        built(EncoderConfig(architecture="resnet18", init="torchvision:IMAGENET22K"))
    with pytest.raises(InputError, match=r"'resnet19'.*resnet18"):
        EncoderConfig(architecture="resnet19")
    with pytest.raises(InputError, match=r"'tiny'.*standard, small"):
        EncoderConfig(stem="tiny")  # type: ignore[arg-type]


def test_projection_head() -> None:
    torch.manual_seed(0)
    head = projection_head(16, 32, 8)
    features = torch.randn(4, 16)
    first, second = head[0], head[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    by_hand = (features @ first.weight.T + first.bias).clamp_min(0) @ second.weight.T + second.bias
    torch.testing.assert_close(head(features), by_hand)
    assert [tuple(p.shape) for p in head.parameters()] == [(32, 16), (32,), (8, 32), (8,)]
