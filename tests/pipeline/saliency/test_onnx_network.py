"""`onnx` runs networks of several forms, and names what does not fit."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.onnx_network import Onnx, load_network
from pipeline.saliency.registry import parse_saliency_source
from tests.pipeline.saliency.test_sources import disc

PLAIN = {"mean": "0/0/0", "std": "1/1/1", "stretch": False}
Save = Callable[..., str]


@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """No network of the test before: its file may have had the same name."""
    load_network.cache_clear()


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes a network whose output number n is scale * (the channels' mean) ** (n + 1) + shift."""

    def write(
        name: str = "model.onnx",
        *,
        shape: Sequence[str | int] = ("batch", 3, 16, 16),
        num_inputs: int = 1,
        num_outputs: int = 1,
        kind: int = TensorProto.FLOAT,
        scale: float = 1.0,
        shift: float = 0.0,
    ) -> str:
        axis = 3 if shape[-1] == 3 else 1
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        values = {"scale": scale, "shift": shift}
        constants = [
            onnx.numpy_helper.from_array(np.array(value, dtype), key)
            for key, value in values.items()
        ] + [onnx.numpy_helper.from_array(np.array([axis]), "axes")]
        inputs = [
            helper.make_tensor_value_info(f"in{number}", kind, list(shape))
            for number in range(num_inputs)
        ]
        nodes = [helper.make_node("ReduceMean", ["in0", "axes"], ["power0"], keepdims=1)]
        outputs = []
        for number in range(num_outputs):
            nodes += [
                helper.make_node("Mul", [f"power{number}", "power0"], [f"power{number + 1}"]),
                helper.make_node("Mul", [f"power{number}", "scale"], [f"scaled{number}"]),
                helper.make_node("Add", [f"scaled{number}", "shift"], [f"d{number}"]),
            ]
            outputs.append(helper.make_tensor_value_info(f"d{number}", kind, None))
        graph = helper.make_graph(nodes, "test", inputs, outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    return write


def grey(height: int, width: int) -> NDArray[np.uint8]:
    """A ramp from left to right: its mean over channels is known everywhere."""
    ramp = np.linspace(0, 255, width).round().astype(np.uint8)
    return np.repeat(np.tile(ramp, (height, 1))[..., None], 3, axis=2)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        (("batch", 3, 16, 16), TensorProto.FLOAT),
        ((1, 3, 16, 16), TensorProto.FLOAT),
        ((4, 3, 16, 16), TensorProto.FLOAT16),
        (("batch", 16, 16, 3), TensorProto.FLOAT),
        (("batch", 3, "height", "width"), TensorProto.FLOAT),
    ],
)
def test_maps_are_the_networks_output(save: Save, shape: Sequence[str | int], kind: int) -> None:
    source = Onnx(model=save(shape=shape, kind=kind), side=16, **PLAIN)  # type: ignore[arg-type]
    images = [grey(16, 16), grey(16, 16)[:, ::-1].copy(), np.full((9, 9, 3), 200, np.uint8)]
    together = source(images)
    for image, saliency in zip(images[:2], together[:2], strict=True):
        assert saliency.shape == (16, 16)
        assert np.abs(saliency - image[..., 0] / 255).max() < 1e-3
    assert together[2].tolist() == [[0.5]]
    apart = [pickle.loads(pickle.dumps(source))([image])[0] for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))


def test_the_input_is_normalised_and_the_map_stretched(save: Save) -> None:
    source = Onnx(model=save(scale=0.1, shift=0.5), mean="0.5/0.5/0.5", std="0.5/0.5/0.5")
    (saliency,) = source([grey(16, 16)])
    assert (saliency.min(), saliency.max()) == (0, 1)
    not_stretched = Onnx(model=source.model, mean="0.5/0.5/0.5", std="0.5/0.5/0.5", stretch=False)
    (saliency,) = not_stretched([grey(16, 16)])
    expected = 0.5 + 0.1 * (grey(16, 16)[..., 0] / 255 - 0.5) / 0.5
    assert np.abs(saliency - expected).max() < 1e-5


def test_a_sigmoid_is_for_logits_only(save: Save) -> None:
    model = save(scale=8.0, shift=-4.0)
    with pytest.raises(InputError, match=r"values from .* outside.*activation=sigmoid"):
        parse_saliency_source(f"onnx:model={model},mean=0/0/0,std=1/1/1,stretch=false").pinned()
    source = Onnx(model=model, activation="sigmoid", **PLAIN)  # type: ignore[arg-type]
    (saliency,) = source([grey(16, 16)])
    expected = 1 / (1 + np.exp(4 - 8 * (grey(16, 16)[..., 0] / 255)))
    assert np.abs(saliency - expected).max() < 1e-5


def test_any_of_seven_outputs_is_taken_the_first_by_default(save: Save) -> None:
    model = save(num_outputs=7)
    ramp = grey(16, 16)[..., 0] / 255
    for output, power in (("", 1), ("d0", 1), ("d6", 7)):
        (saliency,) = Onnx(model=model, output=output, **PLAIN)([grey(16, 16)])  # type: ignore[arg-type]
        assert np.abs(saliency - ramp**power).max() < 1e-5
    with pytest.raises(InputError, match=r"no output 'd7': it has d0, d1, .*d6"):
        Onnx(model=model, output="d7").pinned()


@pytest.mark.parametrize(
    ("graph", "options", "words"),
    [
        ({"num_inputs": 2}, {}, r"2 inputs \(in0, in1\), wanted is one"),
        ({"shape": ("batch", 1, 16, 16)}, {}, r"of shape .* wanted is float32"),
        ({"shape": ("batch", 3, 16)}, {}, r"of shape .* wanted is float32"),
        ({"kind": TensorProto.DOUBLE}, {}, r"takes tensor\(double\)"),
        ({"shape": ("batch", 3, 16, 24)}, {}, r"16 x 24 pixels, wanted is a square"),
        ({}, {"side": 32}, r"16 x 16 pixels, wanted is a square of side=32"),
        ({"scale": float("inf")}, {}, "not finite"),
    ],
)
def test_networks_that_do_not_fit_are_named(
    save: Save, graph: dict[str, object], options: dict[str, int], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        Onnx(model=save(**graph), **options).pinned()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("onnx", "wants the network's file"),
        ("onnx:model=nowhere.onnx", "no network at nowhere.onnx"),
        ("onnx:model=a,mean=1/2", "mean as three numbers, R/G/B, got .1/2"),
        ("onnx:model=a,std=1/0/1", "std above 0"),
        ("onnx:model=a,side=-1", "side of 0 to"),
        ("onnx:model=a,activation=relu", "activation to be none or sigmoid"),
    ],
)
def test_options_that_do_not_fit_are_named(options: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_saliency_source(options).parameters()


def test_a_file_that_is_no_network_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"model\.onnx is no network in ONNX form"):
        Onnx(model=str(tmp_path / "model.onnx")).pinned()


def test_a_pinned_network_is_no_other(save: Save) -> None:
    pinned = Onnx(model=save(), **PLAIN).pinned()  # type: ignore[arg-type]
    before = pinned.parameters()
    save(scale=0.5)
    load_network.cache_clear()  # as in another process
    with pytest.raises(InputError, match=r"have digest .* planned with"):
        pinned([grey(16, 16)])
    assert Onnx(model=save(scale=0.5), **PLAIN).parameters() != before  # type: ignore[arg-type]


def test_weights_beside_the_graph_are_part_of_the_digest(save: Save, tmp_path: Path) -> None:
    source = Onnx(model=save(), **PLAIN)  # type: ignore[arg-type]
    before = source.parameters()["model_digest"]
    (tmp_path / "other.onnx.data").write_bytes(b"of another network")
    assert source.parameters()["model_digest"] == before
    (tmp_path / "model.onnx.data").write_bytes(b"of this one")
    assert source.parameters()["model_digest"] != before


def test_shards_are_made_with_it(save: Save, tmp_path: Path) -> None:
    from PIL import Image as PilImage

    (tmp_path / "images").mkdir()
    for number in range(3):
        PilImage.fromarray(disc(x=40 + 10 * number)).save(tmp_path / "images" / f"{number}.png")
    saliency = f"onnx:model={save(num_outputs=7)},output=d1,mean=0/0/0,std=1/1/1"
    out = tmp_path / "shards"
    run_precompute(PrecomputeConfig(data=tmp_path / "images", out=out, saliency=saliency))
    described = json.loads((out / "dataset.json").read_text())["saliency"]
    assert described["model"] == "model.onnx"
    assert described["output"] == "d1"
    assert len(described["model_digest"]) == 64
