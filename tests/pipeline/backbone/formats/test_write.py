from pathlib import Path

import pytest
import torch

from pipeline.backbone.card import Figure
from pipeline.backbone.folder import load_backbone
from pipeline.backbone.formats import interface
from pipeline.backbone.formats.registry import FORMATS
from pipeline.backbone.formats.write import write_formats
from pipeline.core.errors import InputError
from tests.pipeline.backbone.formats.conftest import export
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig


def test_one_folder_holds_all_and_is_an_export_itself(plain: Path, tmp_path: Path) -> None:
    network, info = load_backbone(plain)
    figures = [Figure("knn", "flowers", 61.25, (58.5, 64.0))]
    write_formats(tmp_path / "out", network, info, ["safetensors", "timm"], figures)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "backbone.json", "backbone.pth", "backbone.safetensors", "timm"}
    again, told = load_backbone(tmp_path / "out")
    assert told == info
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True)
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| knn | flowers | 61.25 | 58.50 to 64.00 |" in card
    assert 'timm.create_model("local-dir:timm", pretrained=True)' in card
    # and once more, over what is there
    write_formats(tmp_path / "out", network, info, ["safetensors"])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "README.md",
        "backbone.json",
        "backbone.pth",
        "backbone.safetensors",
    }


def refused(source: Path, formats: list[str], message: str) -> None:
    network, info = load_backbone(source)
    out = source.parent / "refused"
    with pytest.raises(InputError, match=message):
        write_formats(out, network, info, formats)
    assert not out.exists()


def test_what_a_library_does_not_have(tmp_path: Path) -> None:
    source = export(tmp_path / "mobile", "mobilenet_v3_small", high_pass=None)
    refused(source, ["safetensors", "timm"], "mobilenet_v3_small has no twin in timm")
    refused(source, ["tensorflow"], "unknown format 'tensorflow'.*safetensors, timm")


def test_a_network_without_its_maximum_pooling(tmp_path: Path) -> None:
    config = EncoderConfig(architecture="resnet18", max_pool=False)
    export_backbone(
        tmp_path / "bare",
        build_backbone(config),
        config,
        view_size=32,
        high_pass=None,
        provenance={},
    )
    refused(tmp_path / "bare", ["timm"], "no maximum pooling.*torchvision, safetensors or onnx")
    card = (tmp_path / "bare" / "README.md").read_text()
    assert 'network.set_submodule("maxpool", torch.nn.Identity())' in card


@pytest.mark.parametrize("name", FORMATS)
def test_a_library_that_is_not_installed(
    name: str, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module.split(".")[0])

    monkeypatch.setattr("importlib.import_module", absent)
    refused(plain, [name], f"the format {name} needs .* not installed here.*salmask.export.")


def test_a_format_that_fails_leaves_nothing(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left")

    network, info = load_backbone(plain)
    failing = interface.Format(
        entry="x", write=broken, check=FORMATS["timm"].check, usage=FORMATS["timm"].usage
    )
    monkeypatch.setitem(FORMATS, "timm", failing)
    with pytest.raises(OSError, match="no space left"):
        write_formats(tmp_path / "out", network, info, ["timm"])
    assert list(tmp_path.iterdir()) == []
