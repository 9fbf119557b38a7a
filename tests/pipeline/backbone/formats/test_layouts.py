"""Every format loads with its own library alone and gives the same features."""

import json
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from pipeline.backbone.folder import load_backbone
from pipeline.backbone.formats import hugging_face, onnx_graph, safetensors_file, timm_layout
from pipeline.backbone.formats.write import write_formats
from pipeline.backbone.image_encoder import load_image_encoder
from pipeline.images.preprocessing import Preprocess
from tests.pipeline.backbone.formats.conftest import export, features

ONE_LEVEL = 1 / 255 / 0.224
"""A library that resizes 8-bit images rounds; in units of a normalised view."""


def check_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def written(source: Path, folder: Path, *formats: str) -> Path:
    network, info = load_backbone(source)
    again = write_formats(folder, network, info, formats)
    assert again == info, "the same weights have the same digest, whatever lies beside them"
    return folder


def views(source: Path, images: list[Tensor]) -> Tensor:
    prepare = Preprocess(load_backbone(source)[1].preprocessing)
    return torch.stack([prepare(image) for image in images])


def test_safetensors(
    filtered: Path, images: list[Tensor], expected: Tensor, tmp_path: Path
) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the extra export is not installed")
    torch_file = pytest.importorskip("safetensors.torch")
    file = written(filtered, tmp_path / "out", "safetensors") / safetensors_file.FILE
    network = torchvision.models.resnet18()
    network.fc = torch.nn.Identity()
    network.load_state_dict(torch_file.load_file(file))
    with torch.no_grad():
        got = network.eval()(views(filtered, images))
    check_close(got, expected)
    with safetensors.safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["backbone.json"])
    assert told == json.loads((filtered / "backbone.json").read_text())


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "timm:test_convnext"])
def test_timm(architecture: str, images: list[Tensor], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    source = export(tmp_path / "source", architecture, high_pass=None)
    encoder = load_image_encoder(source)
    folder = written(source, tmp_path / "out", "timm") / timm_layout.FOLDER
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    seen = views(source, images)
    with torch.no_grad():
        check_close(network(seen), features(encoder, images))

    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    theirs = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])
    # Two roundings, of rows and of columns.
    torch.testing.assert_close(theirs, seen, rtol=0, atol=2 * ONE_LEVEL)


def test_hugging_face(plain: Path, images: list[Tensor], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = written(plain, tmp_path / "out", "hugging_face") / hugging_face.FOLDER
    network, loading = transformers.ResNetModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    seen = views(plain, images)
    with torch.no_grad():
        got = network.eval()(seen).pooler_output.flatten(1)
    check_close(got, features(load_image_encoder(plain), images))

    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    theirs = torch.cat([processor(i, return_tensors="pt")["pixel_values"] for i in images])
    torch.testing.assert_close(theirs, seen, rtol=0, atol=2 * ONE_LEVEL)


@pytest.mark.parametrize("architecture", ["resnet34", "resnet50"])
def test_the_names_that_transformers_wants(architecture: str) -> None:
    names = set(torchvision.models.get_model(architecture).state_dict())
    got = {hugging_face.translated(n) for n in names if not n.startswith("fc.")}
    assert len(got) == len(names) - 2
    some = {
        "embedder.embedder.convolution.weight",
        "embedder.embedder.normalization.running_mean",
        "encoder.stages.1.layers.0.shortcut.convolution.weight",
        "encoder.stages.1.layers.0.shortcut.normalization.bias",
        "encoder.stages.3.layers.2.layer.1.normalization.num_batches_tracked",
    }
    assert some <= got
    last = "encoder.stages.0.layers.0.layer.2.convolution.weight"
    assert (last in got) == (architecture == "resnet50"), "bottlenecks have three convolutions"


@pytest.mark.parametrize("source", ["filtered", "plain"])
def test_what_the_graph_is_traced_from(source: str, request: pytest.FixtureRequest) -> None:
    """Needs no ONNX: preparation by constants, as the backbone was pretrained with."""
    network, info = load_backbone(request.getfixturevalue(source))
    levels = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    prepared = Preprocess(info.preprocessing).prepare(levels.float() / 255)
    with torch.no_grad():
        got = onnx_graph.ViewEncoder(network, info.preprocessing)(levels)
        check_close(got, network(prepared))


@pytest.fixture(scope="module")
def graph(filtered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tracing takes seconds: once for all images."""
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra export is not installed")
    return written(filtered, tmp_path_factory.mktemp("onnx") / "out", "onnx") / onnx_graph.FILE


def test_onnx(
    graph: Path, filtered: Path, images: list[Tensor], expected: Tensor, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(graph))
    cut = Preprocess(load_backbone(filtered)[1].preprocessing)
    whole = torch.stack([cut.view(image) for image in images])
    # 8-bit views: the rounding is the input's, so the reference sees the same ones.
    levels = (whole * 255).round().to(torch.uint8)
    (got,) = session.run(None, {"views": levels.numpy()})
    network = load_backbone(filtered)[0]
    with torch.no_grad():
        reference = network(cut.prepare(levels.float() / 255))
    check_close(torch.from_numpy(got), reference)
    assert got.shape == expected.shape
    told = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert told == json.loads((filtered / "backbone.json").read_text())["preprocessing"]
