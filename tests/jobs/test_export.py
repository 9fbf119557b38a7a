import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jobs.export import run
from pipeline.backbone.folder import load_backbone
from tests.job_here import Done, job_here
from training.encoders.encoder import build_backbone
from training.encoders.export import export_backbone
from training.encoders.settings import EncoderConfig


@pytest.fixture
def export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What a run leaves, as far as exporting its query encoder goes."""
    config = EncoderConfig(architecture="resnet18", stem="small")
    export_backbone(
        tmp_path / "run" / "backbone",
        build_backbone(config),
        config,
        view_size=32,
        high_pass=(3, 0.7),
        provenance={},
    )
    return tmp_path / "run"


def test_a_run_in_two_formats(kept: Path, tmp_path: Path, export: Callable[..., Done]) -> None:
    pytest.importorskip("safetensors", reason="the extra export is not installed")
    out = tmp_path / "out"
    done = export("--checkpoint", kept, "--out", out, "--formats", "safetensors", "timm")
    assert done.code == 0, done.err
    for name in ("README.md", "backbone.json", "backbone.pth", "backbone.safetensors", "timm"):
        assert name in done.out
    assert "high-passed images, which timm and transformers cannot make" in done.err
    views = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_backbone(out)[0](views), load_backbone(kept)[0](views))


def test_figures_of_other_weights_are_missed_aloud(
    kept: Path, tmp_path: Path, export: Callable[..., Done]
) -> None:
    (tmp_path / "results.jsonl").write_text("")
    options = ("--checkpoint", kept, "--out", tmp_path / "out", "--results")
    done = export(*options, tmp_path, "--formats")
    assert done.code == 0, done.err
    assert f"{tmp_path} has no figure of these weights" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--checkpoint", "nowhere", "--out", "out"), "no folder .*nowhere"),
        (("--checkpoint", "run", "--out", "run/backbone"), "the run's own export"),
        (("--checkpoint", "run", "--out", "out", "--formats", "h5"), "unknown format 'h5'"),
        (("--checkpoint", "run", "--out", "out", "--encoder", "momentum"), "kept in checkpoints"),
        (("--checkpoint", "run", "--out", "full", "--formats"), "'mine.txt', which is no part"),
        (("--checkpoint", "bare", "--out", "out"), "has no backbone.json.*lost their preproc"),
    ],
)
def test_bad_input(
    kept: Path,
    tmp_path: Path,
    export: Callable[..., Done],
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "backbone.pth").write_bytes(b"weights alone")
    folders = {"nowhere", "run", "out", "full", "bare", "run/backbone"}
    done = export(*(tmp_path / word if word in folders else word for word in options))
    assert done.code == 2
    assert done.out == "" or re.match(r"exporting .* into .*\n$", done.out)
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)
    assert not (tmp_path / "out").exists()
