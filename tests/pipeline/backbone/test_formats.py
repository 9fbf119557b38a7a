"""Every format loads with its own library alone and gives the same features."""

import dataclasses
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from pipeline.backbone.card import Figure
from pipeline.backbone.channels import inner_channels, keep_channels
from pipeline.backbone.folder import load_backbone, write_backbone
from pipeline.backbone.formats import FORMATS, ONNX_FILE, SAFETENSORS_FILE, TIMM_FOLDER
from pipeline.backbone.image_encoder import load_image_encoder
from pipeline.backbone.onnx_graph import ViewEncoder
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocess
from tests.shard_sets import picture
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig

ONE_LEVEL = 1 / 255 / 0.224
"""A library that resizes 8-bit images rounds; in units of a normalised view."""
SCRIPT = """
import json, torch, torchvision
from torchvision.transforms.v2 import functional as F
wanted = json.loads((folder / "backbone.json").read_text())["preprocessing"]
network = torchvision.models.resnet18().eval()
network.fc = torch.nn.Identity()
network.load_state_dict(torch.load(folder / "backbone.pth", weights_only=True))
def view(file):
    image = torchvision.io.decode_image(str(file), "RGB")[None]
    image = F.center_crop(F.resize(image, [wanted["resize"]], antialias=True), wanted["view_size"])
    image = F.normalize(image.float() / 255, wanted["mean"], wanted["std"])
    kernel, sigma = wanted["high_pass"]["kernel"], wanted["high_pass"]["sigma"]
    return image - F.gaussian_blur(image, kernel, sigma)
with torch.no_grad():
    features = torch.cat([network(view(file)) for file in files])
"""
"""What a person writes who has torchvision and none of our packages."""


def export(folder: Path, architecture: str, *, high_pass: tuple[int, float] | None = None) -> Path:
    """An export whose batch norms have seen something."""
    torch.manual_seed(0)
    config = EncoderConfig(architecture=architecture)
    backbone = build_backbone(config)
    with torch.no_grad():
        backbone(torch.randn(8, 3, 64, 64))
    export_backbone(
        folder, backbone, config, view_size=64, high_pass=high_pass, provenance={"step": 7}
    )
    return folder


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a ResNet-18 that wants high-passed views."""
    folder = tmp_path_factory.mktemp("filtered") / "backbone"
    return export(folder, "resnet18", high_pass=(3, 1.4))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 without a filter."""
    return export(tmp_path_factory.mktemp("plain") / "export", "resnet18")


@pytest.fixture(scope="module")
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of many sizes: made ones, and photographs where there are some."""
    folder = tmp_path_factory.mktemp("pictures")
    found = [folder / f"{number}.png" for number in range(3)]
    for number, file in enumerate(found):
        cv2.imwrite(str(file), picture(number)[0][..., ::-1])
    with suppress(pytest.skip.Exception):
        shared: Path = request.getfixturevalue("shared_data")
        found += [
            min(f.iterdir()) for f in sorted((shared / "imagenette160" / "val").iterdir())[:4]
        ]
    return found


@pytest.fixture(scope="module")
def images(files: list[Path]) -> list[Tensor]:
    return [decode_image(str(file), ImageReadMode.RGB) for file in files]


def views(source: Path, images: list[Tensor]) -> Tensor:
    prepare = Preprocess(load_backbone(source)[1].preprocessing)
    return torch.stack([prepare(image) for image in images])


def features(source: Path, images: list[Tensor]) -> Tensor:
    """What every format has to give."""
    with torch.no_grad():
        features_BD: Tensor = load_backbone(source)[0](views(source, images))
    return features_BD


def check_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def written(source: Path, folder: Path, *formats: str, figures: tuple[Figure, ...] = ()) -> Path:
    network, info = load_backbone(source)
    again = write_backbone(folder, network.state_dict(), info, formats=formats, figures=figures)
    assert again == info, "the same weights have the same digest, whatever lies beside them"
    return folder


def test_images_in_features_out(filtered: Path, images: list[Tensor]) -> None:
    encoder = load_image_encoder(filtered.parent)  # the run's folder will do
    assert not encoder.training
    expected = features(filtered, images)
    with torch.no_grad():
        check_close(torch.cat([encoder(image) for image in images]), expected)
        both = torch.stack([images[0], images[0].flip(-1)])
        check_close(encoder(both)[:1], expected[:1])
    with pytest.raises(InputError, match=r"wanted torch.uint8"):
        encoder(images[0].float())


def test_a_plain_script_gives_the_same_features(
    filtered: Path, files: list[Path], images: list[Tensor]
) -> None:
    names: dict[str, Any] = {"folder": filtered, "files": files}
    exec(SCRIPT, names)
    # torchvision blurs by a convolution, we by a product: sums in another order.
    expected = features(filtered, images)
    torch.testing.assert_close(names["features"], expected, rtol=1e-4, atol=1e-4)
    assert float(expected.std(dim=0).max()) > 0.01, "features that say nothing"


def test_safetensors(filtered: Path, images: list[Tensor], tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors", reason="the extra export is not installed")
    torch_file = pytest.importorskip("safetensors.torch")
    before = os.umask(0o027)
    try:
        file = written(filtered, tmp_path / "out", "safetensors") / SAFETENSORS_FILE
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640
    network = torchvision.models.resnet18()
    network.fc = torch.nn.Identity()
    network.load_state_dict(torch_file.load_file(file))
    with torch.no_grad():
        got = network.eval()(views(filtered, images))
    check_close(got, features(filtered, images))
    with safetensors.safe_open(file, "pt") as opened:
        told = json.loads(opened.metadata()["backbone.json"])
    assert told == json.loads((filtered / "backbone.json").read_text())


@pytest.mark.parametrize("architecture", ["resnet18", "densenet121", "timm:test_convnext"])
def test_timm(architecture: str, images: list[Tensor], tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    source = export(tmp_path / "source", architecture)
    folder = written(source, tmp_path / "out", "timm") / TIMM_FOLDER
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    seen = views(source, images)
    with torch.no_grad():
        check_close(network(seen), features(source, images))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    theirs = torch.stack([transform(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])
    # Two roundings, of rows and of columns.
    torch.testing.assert_close(theirs, seen, rtol=0, atol=2 * ONE_LEVEL)


def test_transformers_loads_the_timm_folder(
    plain: Path, images: list[Tensor], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    folder = written(plain, tmp_path / "out", "timm") / TIMM_FOLDER
    network, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    with torch.no_grad():
        got = network.eval()(views(plain, images)).pooler_output
    check_close(got, features(plain, images))


@pytest.mark.parametrize("source", ["filtered", "plain"])
def test_what_the_graph_is_traced_from(source: str, request: pytest.FixtureRequest) -> None:
    """Needs no ONNX: preparation by constants, as the backbone was pretrained with."""
    network, info = load_backbone(request.getfixturevalue(source))
    levels = torch.randint(256, (3, 3, 64, 64), dtype=torch.uint8)
    prepared = Preprocess(info.preprocessing).prepare(levels.float() / 255)
    with torch.no_grad():
        check_close(ViewEncoder(network, info.preprocessing)(levels), network(prepared))


def test_onnx(images: list[Tensor], tmp_path: Path) -> None:
    """On a network of few layers: tracing takes long."""
    for module in ("timm", "onnx", "onnxscript"):
        pytest.importorskip(module, reason="the extras timm and export are not installed")
    onnxruntime = pytest.importorskip("onnxruntime")
    source = export(tmp_path / "source", "timm:test_resnet", high_pass=(3, 1.4))
    network, info = load_backbone(source)
    first, *_ = inner_channels(network, info.architecture)
    keep_channels(network, first, torch.arange(1, 9))
    info = dataclasses.replace(info, channels={first.made_by: 8})
    write_backbone(source, network.state_dict(), info)
    session = onnxruntime.InferenceSession(
        str(written(source, tmp_path / "out", "onnx") / ONNX_FILE)
    )
    network, info = load_backbone(source)
    cut = Preprocess(info.preprocessing)
    # 8-bit views: the rounding is the input's, so the reference sees the same ones.
    levels = (torch.stack([cut.view(image) for image in images]) * 255).round().to(torch.uint8)
    (got,) = session.run(None, {"views": levels.numpy()})
    with torch.no_grad():
        check_close(torch.from_numpy(got), network(cut.prepare(levels.float() / 255)))
    told = session.get_modelmeta().custom_metadata_map
    of_json = json.loads((source / "backbone.json").read_text())
    assert json.loads(told["preprocessing"]) == of_json["preprocessing"]
    assert told["weights_sha256"] == info.weights_sha256


def test_one_folder_holds_all_and_is_an_export_itself(plain: Path, tmp_path: Path) -> None:
    figures = (Figure("knn", "flowers", 61.25, (58.5, 64.0)),)
    out = written(plain, tmp_path / "out", "safetensors", "timm", figures=figures)
    own = {"README.md", "backbone.json", "backbone.pth", "backbone.safetensors"}
    assert {path.name for path in out.iterdir()} == {*own, "timm"}
    assert load_backbone(out)[1] == load_backbone(plain)[1]
    card = (out / "README.md").read_text()
    assert "| knn | flowers | 61.25 | 58.50 to 64.00 |" in card
    assert 'timm.create_model("local-dir:timm", pretrained=True)' in card
    written(plain, out, "safetensors")  # once more, over what is there
    assert {path.name for path in out.iterdir()} == own


@pytest.mark.parametrize(
    ("changes", "formats", "message"),
    [
        (
            {"architecture": "mobilenet_v3_small"},
            ["safetensors", "timm"],
            "mobilenet_v3_small has no twin in timm",
        ),
        ({"max_pool": False}, ["timm"], "no maximum pooling.*torchvision, safetensors or onnx"),
        ({}, ["tensorflow"], "unknown format 'tensorflow'.*safetensors, timm"),
    ],
)
def test_what_a_library_does_not_have(
    changes: dict[str, str], formats: list[str], message: str, plain: Path, tmp_path: Path
) -> None:
    network, info = load_backbone(plain)
    info = dataclasses.replace(info, **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        write_backbone(tmp_path / "out", network.state_dict(), info, formats=formats)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_library_that_is_not_installed(
    name: str, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.split(".")[0])

    monkeypatch.setattr("importlib.import_module", absent)
    message = f"the format {name} needs .* not installed here.*salmask.export."
    with pytest.raises(InputError, match=message):
        written(plain, tmp_path / "out", name)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_fails_leaves_nothing(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setitem(FORMATS, "timm", dataclasses.replace(FORMATS["timm"], write=broken))
    with pytest.raises(OSError, match="no space left"):
        written(plain, tmp_path / "out", "timm")
    assert list(tmp_path.iterdir()) == []
