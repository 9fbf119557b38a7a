"""`scda` follows its formula, whatever the network, its weights and the batch."""

import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.folder import write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import InputError
from pipeline.images.filters import high_pass
from pipeline.images.preprocessing import HighPass, Preprocessing
from pipeline.saliency.interface import resize
from pipeline.saliency.registry import describe_saliency_source
from pipeline.saliency.scda import Scda, input_size
from pipeline.saliency.scda_network import localiser_of

LEVEL = 1 / 255
IMAGENET = Preprocessing(view_size=64, resize=73)
OWN = Preprocessing(
    view_size=64,
    resize=73,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.4),
    high_pass=HighPass(kernel=3, sigma=1.5),
)


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No network of the test before: its folder may have had the same name."""
    localiser_of.cache_clear()


def scda(weights: str = "random", network: str = "resnet18", side: int = 64, **more: str) -> Scda:
    options = {"precision": "float32", **more}
    return Scda(weights=weights, network=network, side=side, **options)  # type: ignore[arg-type]


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth noise: every image has its own map."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


IMAGE = photograph(190, 250)


def resnet18(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made: nn.Module = torchvision.models.resnet18()
    return made.eval()


def save(path: Path, state: object) -> str:
    torch.save(state, path)
    return str(path)


def export(
    folder: Path, *, max_pool: bool = True, network: nn.Module | None = None, view_size: int = 64
) -> str:
    whole = (network or resnet18(1)).state_dict()
    seen = replace(OWN, view_size=view_size, resize=view_size + 9)
    info = BackboneInfo(
        architecture="resnet18", feature_dim=512, preprocessing=seen, max_pool=max_pool
    )
    state = {name: value for name, value in whole.items() if not name.startswith("fc.")}
    write_backbone(folder, state, info)
    return str(folder)


def by_hand(network: nn.Module, view: Tensor, margin: int = 0) -> Tensor:
    """The sum of the last block's activations, with the whole network and a hook."""
    seen: list[Tensor] = []
    network.get_submodule("layer4").register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        network(F.pad(view, (margin * 32,) * 4, mode="reflect"))
    total = seen[0].clamp(min=0).sum(1)
    return total[:, margin : total.shape[1] - margin, margin : total.shape[2] - margin]


def prepared(image01: Tensor, wanted: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (wanted.mean, wanted.std))
    view = (image01 - mean) / std
    return view if wanted.high_pass is None else high_pass(view, 3, 1.5)


@pytest.mark.parametrize(("edges", "margin"), [("zero", 0), ("reflect", 2)])
def test_it_is_the_stretched_sum_of_the_last_blocks_activations(edges: str, margin: int) -> None:
    (saliency,) = scda(side=96, edges=edges)([IMAGE])
    scaled = cv2.resize(IMAGE, (128, 96), interpolation=cv2.INTER_AREA)
    view = prepared(torch.from_numpy(scaled).permute(2, 0, 1)[None].float() / 255, IMAGENET)
    total = by_hand(resnet18(0), view, margin)[0].numpy()
    finer = cv2.resize(total, (8 * total.shape[1], 8 * total.shape[0]))
    expected = (finer - finer.min()) / (finer.max() - finer.min())
    assert saliency.shape == expected.shape == (24, 32)
    assert saliency.dtype == np.float32
    assert (saliency.min(), saliency.max()) == (0, 1)
    assert np.allclose(saliency, expected, atol=1e-4)


def test_an_export_brings_its_preprocessing_and_its_stem(tmp_path: Path) -> None:
    """Without maximum pooling a cell is 16 pixels."""
    source = scda(export(tmp_path / "export", max_pool=False), network="")
    view = photograph(64, 64)
    image01 = torch.from_numpy(view).permute(2, 0, 1)[None].float() / 255
    whole = resnet18(1)
    whole.maxpool = nn.Identity()
    expected = by_hand(whole, prepared(image01, OWN)).numpy()
    assert expected.shape == (1, 4, 4)
    assert np.allclose(source.on_view(image01, 2), expected, rtol=1e-4)
    described = source.parameters()
    assert (described["high_pass"], described["mean"]) == ([3, 1.5], [0.5, 0.4, 0.3])
    assert (described["max_pool"], described["weights"]) == (False, "export")
    for edges in ("zero", "reflect"):
        (saliency,) = scda(source.weights, side=96, edges=edges)([IMAGE])
        assert saliency.shape == (8 * 6, 8 * 8)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_map_depends_on_the_batch_by_less_than_a_level(precision: str) -> None:
    """Half precision costs few levels."""
    source = scda(side=96, precision=precision)
    shapes = [(90, 120), (120, 90), (100, 100), (90, 121), (91, 120)]
    images = [photograph(*shape, seed) for seed, shape in enumerate(shapes)]
    together, again, exact = source(images), source(images), scda(side=96)(images)
    for number, image in enumerate(images):
        (alone,) = pickle.loads(pickle.dumps(source))([image])
        assert np.array_equal(together[number], again[number])
        assert np.abs(together[number] - alone).max() < LEVEL
        assert np.abs(together[number] - exact[number]).max() < 4 * LEVEL
    assert (precision == "float32") == np.array_equal(together[0], exact[0])


def test_a_batch_larger_than_memory_allows_is_cut() -> None:
    source = scda(network="shufflenet_v2_x0_5", side=512)
    images = [photograph(64, 64, seed) for seed in range(5)]
    (single,) = source(images[4:])
    assert np.abs(source(images)[4] - single).max() < LEVEL


@pytest.mark.parametrize(
    "network",
    [
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "mnasnet0_5",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_y_400mf",
        "resnext50_32x4d",
        "shufflenet_v2_x0_5",
        "vgg11_bn",
    ],
)
def test_every_known_family_gives_a_cell_for_32_pixels(network: str) -> None:
    (saliency,) = scda(network=network)([photograph(64, 96)])
    assert saliency.shape == (16, 24)
    assert (saliency.min(), saliency.max()) == (0, 1)


@pytest.mark.parametrize(
    ("image", "side", "expected"),
    [
        ((224, 300), 224, (224, 288)),
        ((300, 224), 224, (288, 224)),
        ((10, 10), 64, (64, 64)),
        ((500, 375), 128, (160, 128)),
        ((4000, 1), 64, (256, 64)),
        ((1, 4000), 64, (64, 256)),
    ],
)
def test_the_input_keeps_the_aspect_in_whole_cells(
    image: tuple[int, int], side: int, expected: tuple[int, int]
) -> None:
    assert input_size(*image, side) == expected


def test_resizing_averages_or_interpolates() -> None:
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    assert set(resize(checks, (32, 32)).ravel().tolist()) == {100}
    ramp = np.repeat(np.array([[0, 200]], np.uint8)[..., None], 3, axis=2)
    assert resize(ramp, (1, 4))[0, :, 0].tolist() == [0, 50, 150, 200]


def test_the_source_describes_itself_by_what_its_weights_are() -> None:
    described = describe_saliency_source("scda", scda())
    digest = str(described.pop("weights_digest"))
    assert described == {
        "source": "scda",
        "weights": "random",
        "network": "resnet18",
        "max_pool": True,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "high_pass": None,
        "side": 64,
        "edges": "zero",
        "precision": "float32",
    }
    assert len(digest) == 64
    pinned = scda().pinned()
    assert pinned == scda(weights_digest=digest)
    assert pinned.parameters() == scda().parameters()
    assert len(pickle.dumps(pinned)) < 1000


@pytest.mark.parametrize(("view_size", "side"), [(64, 224), (300, 288)])
def test_the_side_is_the_network_s_own_in_whole_strides_but_not_small(
    tmp_path: Path, view_size: int, side: int
) -> None:
    weights = export(tmp_path / str(view_size), view_size=view_size)
    assert Scda(weights=weights).parameters()["side"] == side


def test_one_network_has_one_digest_wherever_it_is_from(tmp_path: Path) -> None:
    """Weights that changed are refused; random ones are the same everywhere."""
    network = resnet18(1)
    state = network.state_dict()
    old = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    places = [
        save(tmp_path / "whole.pth", state),
        save(tmp_path / "old.pth", old),
        export(tmp_path / "export", network=network),
    ]
    pinned = [scda(place).pinned() for place in places]
    assert len({source.weights_digest for source in pinned}) == 1
    with torch.no_grad():
        network.get_parameter("layer4.1.bn2.weight").add_(1e-3)
    save(tmp_path / "whole.pth", network.state_dict())
    localiser_of.cache_clear()  # as in a process that starts later
    with pytest.raises(InputError, match=r"whole.pth have digest .* planned with .* changed"):
        pinned[0]([IMAGE])
    assert scda(places[0]).pinned().weights_digest != pinned[0].weights_digest
    before = torch.get_rng_state()
    digest = scda().pinned().weights_digest
    localiser_of.cache_clear()
    assert scda().pinned().weights_digest == digest
    assert torch.equal(torch.get_rng_state(), before)


def test_a_pinned_source_works_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path / "export")
    monkeypatch.chdir(tmp_path)
    source = scda("export", network="")
    pinned, described = source.pinned(), source.parameters()
    monkeypatch.chdir(tmp_path.parent)
    localiser_of.cache_clear()
    assert pinned.parameters() == described
    with pytest.raises(InputError, match="no weights 'export'"):
        source([IMAGE])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer2.0.conv1.weight", torch.nan, r"'layer2.0.conv1.weight'.*not finite"),
        ("layer4.1.bn2.weight", 3e38, "activations that are not finite"),
    ],
)
def test_what_is_not_finite_is_refused(name: str, value: float, words: str, tmp_path: Path) -> None:
    state = resnet18(1).state_dict()
    state[name][:] = value
    with pytest.raises(InputError, match=words):
        scda(save(tmp_path / "wrong.pth", state))([IMAGE])


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t", "alexnet", "inception_v3"])
def test_networks_without_a_known_feature_map_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} has no last convolutional.*resnet, convnext"):
        scda(network=name).pinned()


def test_networks_that_torchvision_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"no network 'resnet19'"):
        scda(network="resnet19").pinned()
