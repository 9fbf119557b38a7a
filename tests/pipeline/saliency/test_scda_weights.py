"""The networks of `scda`, with weights from files, exports and torchvision."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from pipeline.backbone.folder import write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass, normalise
from pipeline.images.preprocessing import HighPass, Preprocessing
from pipeline.saliency.scda import Scda
from pipeline.saliency.scda_network import load_trunk, localiser_of

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
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    places = [
        save(tmp_path / "whole.pth", state),
        save(tmp_path / "old.pth", old),
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


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t", "alexnet", "inception_v3"])
def test_networks_without_a_known_feature_map_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} has no last convolutional.*resnet, convnext"):
        load_trunk("random", name)


def test_networks_that_torchvision_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"no network 'resnet19'"):
        load_trunk("random", "resnet19")


def test_random_weights_are_the_same_everywhere_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = load_trunk("random", "resnet18"), load_trunk("random", "resnet18")
    assert first.weights_digest == second.weights_digest
    assert torch.equal(torch.get_rng_state(), before)
