"""Exports are written whole or not at all, and read strictly."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.folder import load_backbone, weights_digest, write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import HighPass, Preprocessing

PREPROCESSING = Preprocessing(view_size=64, resize=73, high_pass=HighPass(kernel=3, sigma=1.4))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network, feature_dim = plain_network("resnet18")
    info = BackboneInfo(
        architecture="resnet18",
        feature_dim=feature_dim,
        preprocessing=PREPROCESSING,
        provenance={"run": "a", "epoch": 3},
    )
    folder = tmp_path_factory.mktemp("runs") / "backbone"
    write_backbone(folder, network.state_dict(), info)
    return folder


@pytest.fixture
def export(written: Path, tmp_path: Path) -> Path:
    """A copy of its own for every test."""
    shutil.copytree(written, tmp_path / "runs" / "backbone")
    return tmp_path / "runs" / "backbone"


def edit(folder: Path, **changes: object) -> None:
    file = folder / "backbone.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_write_then_load(export: Path) -> None:
    network, info = load_backbone(export)
    assert info.preprocessing == PREPROCESSING
    assert (info.architecture, info.feature_dim, info.max_pool) == ("resnet18", 512, True)
    assert info.provenance == {"run": "a", "epoch": 3}
    assert not any(module.training for module in network.modules())
    names = sorted(p.name for p in export.iterdir())
    assert names == ["README.md", "backbone.json", "backbone.pth"]
    assert sorted(p.name for p in export.parent.iterdir()) == ["backbone"]
    assert len(info.weights_sha256) == 64
    assert write_backbone(export, network.state_dict(), info) == info


def test_the_digest_is_that_of_the_sorted_tensors() -> None:
    """Whatever their strides, and without batch norm's counters."""
    last = torch.arange(24.0).reshape(1, 3, 2, 4).to(memory_format=torch.channels_last)
    state = {"b": last, "a": torch.tensor([[3]], dtype=torch.int64)}
    text = b"a torch.int64 [1, 1]\n" + np.array([3], np.int64).tobytes()
    text += b"b torch.float32 [1, 3, 2, 4]\n" + np.arange(24, dtype=np.float32).tobytes()
    assert weights_digest(state) == hashlib.sha256(text).hexdigest()
    counted = {**state, "bn.num_batches_tracked": torch.tensor(7)}
    assert weights_digest(counted) == weights_digest(state)
    narrow = {"a": state["a"], "b": last.bfloat16()}
    assert weights_digest(narrow) != weights_digest(state)


def test_an_export_of_an_earlier_version(export: Path) -> None:
    """Its digest is of the file's bytes; it loads, and has the weights' digest from then on."""
    info = load_backbone(export)[1]
    digest = hashlib.sha256((export / "backbone.pth").read_bytes()).hexdigest()
    edit(export, weights_sha256=digest)
    assert digest != info.weights_sha256
    assert load_backbone(export)[1] == info
    (export / "backbone.pth").write_bytes(b"weights")
    edit(export, weights_sha256=hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(InputError, match=r"backbone\.pth is no state dict"):
        load_backbone(export)


def test_an_earlier_export_is_replaced_and_leftovers_swept(export: Path) -> None:
    _, info = load_backbone(export)
    (export.parent / ".backbone.writing").mkdir()
    (export.parent / ".backbone.writing" / "backbone.pth").write_bytes(b"of a killed run")
    torch.manual_seed(1)
    other, _ = plain_network("resnet18")
    written = write_backbone(export, other.state_dict(), info)
    network, loaded = load_backbone(export)
    assert loaded == written != info
    assert torch.equal(network.get_parameter("conv1.weight"), other.get_parameter("conv1.weight"))
    assert sorted(p.name for p in export.parent.iterdir()) == ["backbone"]


def test_nothing_else_is_overwritten(export: Path) -> None:
    network, info = load_backbone(export)
    (export / "notes.txt").write_text("mine")
    before = (export / "backbone.pth").read_bytes()
    with pytest.raises(InputError, match=r"notes\.txt.*another folder"):
        write_backbone(export, network.state_dict(), info)
    assert (export / "backbone.pth").read_bytes() == before
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_backbone(export / "notes.txt", network.state_dict(), info)


@pytest.mark.parametrize("name", ["backbone.json", "backbone.pth"])
def test_what_is_missing_is_named(export: Path, tmp_path: Path, name: str) -> None:
    (export / name).unlink()
    with pytest.raises(InputError, match=f"has no {name}"):
        load_backbone(export)
    with pytest.raises(InputError, match=r"no folder .*nowhere"):
        load_backbone(tmp_path / "nowhere")


def test_damaged_weights(export: Path) -> None:
    file = export / "backbone.pth"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"backbone\.pth has digest .* damaged"):
        load_backbone(export)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format version 2, this program reads 1"),
        ({"preprocessing": None}, "no preprocessing"),
        ({"preprocessing": {"view_size": 64}}, "incomplete or damaged.*mean"),
        ({"architecture": "resnet50"}, "feature_dim 512, resnet50 has 2048"),
        ({"architecture": "resnet34"}, r"does not fit resnet34"),
        ({"architecture": "lenet"}, "unknown architecture 'lenet'"),
        ({"surprise": 1}, "incomplete or damaged.*surprise"),
    ],
)
def test_bad_information(export: Path, changes: dict[str, object], message: str) -> None:
    edit(export, **changes)
    with pytest.raises(InputError, match=message):
        load_backbone(export)
    (export / "backbone.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        load_backbone(export)
