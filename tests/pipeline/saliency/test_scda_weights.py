"""Weights from files, exports and torchvision; what does not fit is named."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pipeline.backbone.folder import BackboneInfo, write_backbone
from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass, normalise
from pipeline.images.preprocessing import HighPass, Preprocessing
from pipeline.saliency.scda import Scda
from pipeline.saliency.scda_network import localiser_of
from pipeline.saliency.scda_weights import load_trunk

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = torchvision.models.resnet18()
    return made.eval()


def save(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def export(folder: Path, *, high_pass: HighPass | None = None, max_pool: bool = True) -> str:
    state = {n: v for n, v in network().state_dict().items() if not n.startswith("fc.")}
    preprocessing = Preprocessing(
        view_size=64, resize=73, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), high_pass=high_pass
    )
    info = BackboneInfo(
        architecture="resnet18", feature_dim=512, preprocessing=preprocessing, max_pool=max_pool
    )
    write_backbone(folder, state, info)
    return str(folder)


def test_one_network_has_one_digest_wherever_it_is_from(tmp_path: Path) -> None:
    state = network().state_dict()
    bare = {n: v for n, v in state.items() if not n.startswith("fc.")}
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    places = [
        save(tmp_path / "whole.pth", state),
        save(tmp_path / "bare.pth", bare),
        save(tmp_path / "old.pth", old),
        save(tmp_path / "ddp.pth", {f"module.{n}": v for n, v in state.items()}),
        save(tmp_path / "wrapped.pth", {"state_dict": state, "epoch": 3}),
        export(tmp_path / "export"),
    ]
    digests = {load_trunk(place, "resnet18").weights_digest for place in places}
    assert len(digests) == 1
    other = network()
    with torch.no_grad():
        other.get_parameter("layer4.1.bn2.weight").add_(1e-3)
    changed = load_trunk(save(tmp_path / "other.pth", other.state_dict()), "resnet18")
    assert changed.weights_digest not in digests


def test_an_export_brings_its_preprocessing_and_its_stem(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", high_pass=HighPass(kernel=3, sigma=1.5), max_pool=False)
    trunk = load_trunk(folder, "")
    assert (trunk.network, trunk.max_pool, trunk.exported) == ("resnet18", False, True)
    assert isinstance(trunk.module.get_submodule("maxpool"), nn.Identity)
    localiser = localiser_of(
        weights=folder,
        network="",
        side=64,
        edges="zero",
        precision="float32",
        weights_digest="",
    )
    assert localiser.parameters()["high_pass"] == [3, 1.5]
    assert localiser.parameters()["mean"] == [0.5, 0.4, 0.3]
    assert localiser.parameters()["max_pool"] is False
    assert localiser.parameters()["weights"] == "export"

    image01 = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float() / 255
    mean, std = torch.tensor((0.5, 0.4, 0.3)), torch.tensor((0.2, 0.3, 0.4))
    view = high_pass((image01 - mean[:, None, None]) / std[:, None, None], 3, 1.5)
    assert not torch.allclose(view, normalise(image01), atol=0.1)
    whole = network()
    whole.maxpool = nn.Identity()
    seen: list[torch.Tensor] = []
    whole.get_submodule("layer4").register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        whole(view)
        found = localiser.activation(image01)
    assert found.shape == (1, 4, 6)
    assert torch.allclose(found, seen[0].sum(1), rtol=1e-4)


def test_without_maximum_pooling_a_cell_is_16_pixels(tmp_path: Path) -> None:
    folder = export(tmp_path / "export", max_pool=False)
    for edges in ("zero", "reflect"):
        source = Scda(weights=folder, side=96, edges=edges, precision="float32")
        (saliency,) = source([IMAGE])
        assert saliency.shape == (8 * 6, 8 * 8)


def test_weights_that_changed_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "weights.pth"
    source = Scda(weights=save(place, network(1).state_dict()), network="resnet18", side=64)
    pinned = source.pinned()
    assert len(pinned([IMAGE])) == 1
    localiser_of.cache_clear()  # as in a process that starts later
    save(place, network(2).state_dict())
    with pytest.raises(InputError, match=r"weights.pth have digest .* planned with .* changed"):
        pinned([IMAGE])
    assert source.pinned().weights_digest != pinned.weights_digest


def test_a_pinned_source_works_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    source = Scda(weights="export", side=64, precision="float32")
    pinned, described = source.pinned(), source.parameters()
    monkeypatch.chdir(tmp_path.parent)
    localiser_of.cache_clear()
    assert pinned.parameters() == described
    with pytest.raises(InputError, match="no weights 'export'"):
        source([IMAGE])


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = network().state_dict()
    missing = {n: v for n, v in state.items() if not n.startswith("layer3.0.")}
    unknown = {**state, "layer9.weight": torch.zeros(1)}
    reshaped = {**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    for wrong, message in (
        (missing, r"15 are missing, first 'layer3.0.conv1.weight'"),
        (unknown, r"1 are unknown, first 'layer9.weight'"),
        (reshaped, r"first 'conv1.weight' \[64, 3, 3, 3\] instead of \[64, 3, 7, 7\]"),
    ):
        place = save(tmp_path / "wrong.pth", wrong)
        with pytest.raises(InputError, match=message):
            load_trunk(place, "resnet18")
    with pytest.raises(InputError, match=r"do not fit torchvision's resnet50.*--saliency.network"):
        load_trunk(save(tmp_path / "right.pth", state), "")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"'layer2.0.conv1.weight'.*not finite"):
        load_trunk(save(tmp_path / "diverged.pth", state), "resnet18")


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    state["layer4.1.bn2.weight"][:] = 3e38
    place = save(tmp_path / "huge.pth", state)
    with pytest.raises(InputError, match="activations that are not finite"):
        Scda(weights=place, network="resnet18", side=64, precision="float32")([IMAGE])


def test_files_that_are_no_state_dict_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text.pth is not a state dict"):
        load_trunk(str(tmp_path / "text.pth"), "resnet18")
    with pytest.raises(InputError, match=r"holds no tensors by name but list"):
        load_trunk(save(tmp_path / "list.pth", [1, 2]), "resnet18")
    with pytest.raises(InputError, match=r"'epoch' is no tensor"):
        load_trunk(save(tmp_path / "run.pth", {"epoch": 1, "model": {}}), "resnet18")


def test_pickled_programs_are_not_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights_only"):
        load_trunk(save(tmp_path / "module.pth", network()), "resnet18")


def test_places_and_names_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no weights at .*nowhere.pth: wanted a file"):
        load_trunk(str(tmp_path / "nowhere.pth"), "resnet18")
    with pytest.raises(InputError, match=r"no weights 'NOPE'.*IMAGENET1K_V1.*DEFAULT, random"):
        load_trunk("NOPE", "resnet18")
    with pytest.raises(InputError, match=r"has no backbone.json"):
        load_trunk(str(tmp_path), "")
    with pytest.raises(InputError, match=r"is a resnet18, not the resnet50"):
        load_trunk(export(tmp_path / "export"), "resnet50")


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t", "alexnet", "inception_v3"])
def test_networks_without_a_known_feature_map_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} has no last convolutional.*resnet, convnext"):
        load_trunk("random", name)


def test_networks_that_torchvision_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"no network 'resnet19'"):
        load_trunk("random", "resnet19")


def test_without_a_network_both_ways_out_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing is cached there
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # and nobody answers here
    with pytest.raises(InputError) as refused:
        Scda()([IMAGE])
    message = str(refused.value)
    assert "\n" not in message
    assert "torchvision's weights DEFAULT of resnet50 cannot be fetched" in message
    assert "--saliency scda:weights=FILE.pth" in message
    assert "--saliency scda:weights=RUN/backbone" in message


def test_weights_in_torchvisions_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    cached = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    save(cached, network().state_dict())
    trunk = load_trunk("IMAGENET1K_V1", "resnet18")
    assert trunk.weights == "IMAGENET1K_V1"
    assert trunk.preprocessing == Preprocessing(view_size=224, resize=256)
    place = save(tmp_path / "same.pth", network().state_dict())
    assert trunk.weights_digest == load_trunk(place, "resnet18").weights_digest


def test_random_weights_are_the_same_everywhere_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = load_trunk("random", "resnet18"), load_trunk("random", "resnet18")
    assert first.weights_digest == second.weights_digest
    assert torch.equal(torch.get_rng_state(), before)
