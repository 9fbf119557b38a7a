import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs.export import run
from pipeline.backbone.folder import load_backbone
from tests.job_here import Done, job_here
from tests.training.evaluate.cases import write_folders
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig


@pytest.fixture
def export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run leaves, as far as exporting its query encoder goes; relative paths start there."""
    config = EncoderConfig(architecture="resnet18", stem="small")
    backbone, filter_ = build_backbone(config), (3, 0.7)
    folder = tmp_path / "run" / "backbone"
    export_backbone(folder, backbone, config, view_size=32, high_pass=filter_, provenance={})
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    return tmp_path / "run"


def test_a_run_in_two_formats_and_figures_of_other_weights(
    kept: Path, tmp_path: Path, export: Callable[..., Done]
) -> None:
    pytest.importorskip("safetensors", reason="the extra export is not installed")
    (tmp_path / "results.jsonl").write_text("")
    formats = ("--formats", "safetensors", "timm", "--results", ".")
    done = export("--checkpoint", "run", "--out", "out", *formats)
    assert done.code == 0, done.err
    for name in ("README.md", "backbone.json", "backbone.pth", "backbone.safetensors", "timm"):
        assert name in done.out
    assert "high-passed images, which timm and transformers cannot make" in done.err
    assert f"{tmp_path} has no figure of these weights" in done.err
    views = torch.randn(2, 3, 32, 32)
    networks = [load_backbone(folder)[0] for folder in (tmp_path / "out", kept)]
    assert torch.equal(networks[0](views), networks[1](views))


def test_with_fewer_channels(kept: Path, tmp_path: Path, export: Callable[..., Done]) -> None:
    write_folders(tmp_path / "images", 12, seed=0)
    half = "--checkpoint run --out out --formats --channels 0.5 --shards images"
    done = export(*half.split())
    assert done.code == 0, done.err
    network, info = load_backbone(tmp_path / "out")
    assert len(info.channels) == 8
    assert 0.48 < info.provenance["channels"]["share"] <= 0.5
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 512)
    assert load_backbone(kept)[1].channels == {}
    again = export("--checkpoint", "out", "--out", "again", "--formats")
    assert again.code == 0, again.err
    assert load_backbone(tmp_path / "again")[1] == info


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--checkpoint nowhere --out out", "no folder .*nowhere"),
        ("--checkpoint run --out run/backbone", "the run's own export"),
        ("--checkpoint run --out out --formats h5", "unknown format 'h5'"),
        ("--checkpoint run --out out --encoder momentum", "kept in checkpoints"),
        ("--checkpoint run --out out --channels 0.5", "a share in .0, 1., and --shards with it"),
        ("--checkpoint run --out out --channels 2 --shards full", "a share in .0, 1., and --sh"),
        ("--checkpoint run --out out --shards full", "full is of use with --channels only: leave"),
        ("--checkpoint run --out out --channels 0.05 --shards images/x", "a share of 0.07.* fixed"),
        (
            "--checkpoint run --out out --encoder momentum --channels 0.5 --shards images/x",
            "kept in checkpoints",
        ),
        ("--checkpoint run --out full --formats", "'mine.txt', which is no part"),
        ("--checkpoint bare --out out", "has no backbone.json.*lost their preproc"),
    ],
)
def test_bad_input(tmp_path: Path, export: Callable[..., Done], options: str, message: str) -> None:
    write_folders(tmp_path / "images" / "x", 3, seed=0)
    for folder, name in (("full", "mine.txt"), ("bare", "backbone.pth")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("mine")
    done = export(*options.split())
    assert done.code == 2
    assert done.out == "" or re.match(r"exporting .* into .*\n$", done.out)
    assert re.fullmatch(rf"error: .*{message}.*\n", done.err)
    assert not (tmp_path / "out").exists()
