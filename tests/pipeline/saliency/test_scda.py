"""`scda` follows its formula, whatever the network and the batch."""

import pickle

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.images.filters import normalise
from pipeline.saliency.interface import WeightedSource, parameters_of, pin
from pipeline.saliency.registry import describe_saliency_source
from pipeline.saliency.scda import Scda
from pipeline.saliency.scda_input import input_size, resize
from pipeline.saliency.uniform import Uniform

SMALL = Scda(weights="random", network="resnet18", side=64, precision="float32")
LEVEL = 1 / 255


def photograph(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth noise: every image has its own map."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def random_resnet18() -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = torchvision.models.resnet18()
    return made.eval()


def by_hand(image: NDArray[np.uint8], size: tuple[int, int], margin: int) -> NDArray[np.float32]:
    """The formula, with the whole of torchvision's network and a hook."""
    network, seen = random_resnet18(), []
    network.get_submodule("layer4").register_forward_hook(lambda *call: seen.append(call[2]))
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    view = normalise(torch.from_numpy(scaled).permute(2, 0, 1)[None].float() / 255)
    with torch.inference_mode():
        network(F.pad(view, (margin * 32,) * 4, mode="reflect"))
    total = seen[0].clamp(min=0).sum(1)[0]
    total = total[margin : margin + size[0] // 32, margin : margin + size[1] // 32].numpy()
    finer = cv2.resize(total, (8 * total.shape[1], 8 * total.shape[0]))
    return np.asarray((finer - finer.min()) / (finer.max() - finer.min()), np.float32)


@pytest.mark.parametrize(("edges", "margin"), [("zero", 0), ("reflect", 2)])
def test_it_is_the_stretched_sum_of_the_last_blocks_activations(edges: str, margin: int) -> None:
    image = photograph(190, 250)
    source = Scda(
        weights="random",
        network="resnet18",
        side=96,
        edges=edges,  # type: ignore[arg-type]
        precision="float32",
    )
    (saliency,) = source([image])
    expected = by_hand(image, (96, 128), margin)
    assert saliency.shape == expected.shape == (24, 32)
    assert saliency.dtype == np.float32
    assert (saliency.min(), saliency.max()) == (0, 1)
    assert np.allclose(saliency, expected, atol=1e-4)


def test_maps_of_any_image_are_maps() -> None:
    shapes = [(1, 1), (1, 300), (300, 1), (2, 3), (40, 60), (225, 300), (900, 40)]
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    copies = [image.copy() for image in images]
    maps = SMALL(images)
    assert len(maps) == len(images)
    for saliency in maps:
        assert saliency.dtype == np.float32
        assert saliency.ndim == 2
        assert 0 <= saliency.min() <= saliency.max() <= 1
    assert set(maps[0].ravel().tolist()) == {0.5}
    assert all(np.array_equal(a, b) for a, b in zip(images, copies, strict=True))
    assert SMALL([]) == []


@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_image_has_a_flat_map(level: int) -> None:
    """Also where the network would see its border: padding with zeros is no grey image."""
    flat, other = np.full((70, 90, 3), level, np.uint8), photograph(70, 90)
    maps = SMALL([other, flat, other])
    assert set(maps[1].ravel().tolist()) == {0.5}
    assert maps[0].std() > 0.1
    assert np.array_equal(maps[0], maps[2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_map_depends_on_the_batch_by_less_than_a_level(precision: str) -> None:
    source = Scda(weights="random", network="resnet18", side=96, precision=precision)  # type: ignore[arg-type]
    shapes = [(90, 120), (120, 90), (100, 100), (90, 121), (91, 120)]
    images = [photograph(*shape, seed) for seed, shape in enumerate(shapes)]
    together = source(images)
    apart = [pickle.loads(pickle.dumps(source))([image])[0] for image in images]
    again = source(images)
    for first, second, third in zip(together, apart, again, strict=True):
        assert np.array_equal(first, third)
        assert np.abs(first - second).max() < LEVEL


def test_half_precision_costs_few_levels() -> None:
    images = [photograph(100, 140, seed) for seed in range(4)]
    exact = Scda(weights="random", network="resnet18", side=96, precision="float32")(images)
    rough = Scda(weights="random", network="resnet18", side=96, precision="bfloat16")(images)
    for first, second in zip(exact, rough, strict=True):
        assert 0 < np.abs(first - second).max() < 4 * LEVEL


def test_a_batch_larger_than_memory_allows_is_cut() -> None:
    source = Scda(weights="random", network="shufflenet_v2_x0_5", side=512, precision="float32")
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
    source = Scda(weights="random", network=network, side=64, precision="float32")
    (saliency,) = source([photograph(64, 96)])
    assert saliency.shape == (16, 24)
    assert (saliency.min(), saliency.max()) == (0, 1)


def test_the_input_keeps_the_aspect_in_whole_cells() -> None:
    assert input_size(224, 300, 224) == (224, 288)
    assert input_size(300, 224, 224) == (288, 224)
    assert input_size(10, 10, 64) == (64, 64)
    assert input_size(500, 375, 128) == (160, 128)
    assert input_size(4000, 1, 64) == (256, 64)
    assert input_size(1, 4000, 64) == (64, 256)


def test_resizing_averages_or_interpolates() -> None:
    checks = np.zeros((64, 64, 3), np.uint8)
    checks[::2, ::2] = checks[1::2, 1::2] = 200
    assert set(resize(checks, (32, 32)).ravel().tolist()) == {100}
    ramp = np.repeat(np.array([[0, 200]], np.uint8)[..., None], 3, axis=2)
    assert resize(ramp, (1, 4))[0, :, 0].tolist() == [0, 50, 150, 200]


def test_the_source_describes_itself_by_what_its_weights_are() -> None:
    described = describe_saliency_source("scda", SMALL)
    digest = described.pop("weights_digest")
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
    assert isinstance(digest, str)
    assert len(digest) == 64
    assert pin(SMALL) == Scda(
        weights="random",
        network="resnet18",
        side=64,
        precision="float32",
        weights_digest=digest,
    )
    assert parameters_of(pin(SMALL)) == parameters_of(SMALL)


def test_a_source_without_weights_is_pinned_as_it_is() -> None:
    assert isinstance(SMALL, WeightedSource)
    assert not isinstance(Uniform(), WeightedSource)
    assert pin(Uniform()) == Uniform()
    assert parameters_of(Uniform()) == {}


def test_a_pickled_source_is_small() -> None:
    SMALL([photograph(64, 64)])
    assert len(pickle.dumps(pin(SMALL))) < 1000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"side": 100}, "multiple of 32"),
        ({"side": -32}, "multiple of 32"),
        ({"side": 4096}, "up to 2048"),
        ({"side": 64, "edges": "reflect"}, "side above 64"),
        ({"edges": "wrap"}, "edges zero and reflect"),
        ({"precision": "float16"}, "auto, float32 and bfloat16"),
        ({"weights": ""}, "a torchvision name, a file or a folder"),
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Scda(**wrong)  # type: ignore[arg-type]
