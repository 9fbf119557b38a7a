import re
from pathlib import Path

import pytest
import torch
import torchvision

from pipeline.backbone.folder import BackboneInfo, write_backbone
from pipeline.core.architectures import TIMM
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from training.encoders.encoder import Backbone, EncoderConfig, build_backbone, plain_state_dict
from training.encoders.initial_weights import published_weights

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


def test_weights_that_torchvision_does_not_have() -> None:
    with pytest.raises(InputError, match=r"'IMAGENET22K'.*IMAGENET1K_V1"):
        built(EncoderConfig(architecture="resnet18", init="torchvision:IMAGENET22K"))
    with pytest.raises(InputError, match=r"no weights for timm:a_net: save timm\.create_model"):
        published_weights(TIMM + "a_net", "DEFAULT")


def test_the_old_names_in_densenet_files(tmp_path: Path) -> None:
    """Torchvision's own files have a dot more than its networks: norm.1 for norm1."""
    torch.manual_seed(5)
    state = torchvision.models.densenet121().state_dict()
    new_name = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])")
    old = {new_name.sub(r"\1.\2", name): value for name, value in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    config = EncoderConfig(architecture="densenet121", init=str(tmp_path / "densenet121.pth"))
    for name, value in plain_state_dict(built(config)).items():
        assert torch.equal(value, state[name])
