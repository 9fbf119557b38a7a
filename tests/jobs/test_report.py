"""The command as users type it: a file, one clear line for bad input."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.cli import parse
from jobs.report import run
from pipeline.core.errors import InputError
from tests.job_here import Done, job_here
from tests.made_sweeps import write_sweep
from tests.shard_sets import write_shard_set
from tests.training.report.pages import Page
from training.report.config import ReportConfig
from training.report.write import MOST_BYTES


@pytest.fixture
def report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


def test_the_options_are_a_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "FOLDER --out X.html --images 6 --val V --map pca --map-images 50"
    assert parse(ReportConfig, "report", arguments.split()) == ReportConfig(
        folder=Path("FOLDER"), out=Path("X.html"), images=6, val=Path("V"), map_images=50
    )
    assert parse(ReportConfig, "report", ["F"]) == ReportConfig(folder=Path("F"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="pip install umap-learn, or take --map pca"):
        ReportConfig(folder=Path("F"), map="umap")


@pytest.mark.parametrize("kind", ["shard set", "sweep"])
def test_one_file_that_needs_nothing_else(
    tmp_path: Path, report: Callable[..., Done], kind: str
) -> None:
    folder = tmp_path / "it & <it>"
    if kind == "sweep":
        write_sweep(folder, num_trials=6)
    else:
        write_shard_set(folder, num_images=6)
    done = report(folder, "--images", "4", "--out", tmp_path / "other" / "r.html")
    assert done.code == 0, done.err
    path = tmp_path / "other" / "r.html"
    assert done.out.startswith(f"reporting the {kind} {folder} in {path}\n")
    text = path.read_text()
    assert path.stat().st_size < MOST_BYTES
    page = Page(text)
    anchors = {f"#{name}" for name in page.sections}
    assert anchors == {link for link in page.links if not link.startswith("data:")}
    assert all(section.text and all(section.alts) for section in page.sections.values())
    assert all(c["alt"] for section in page.sections.values() for c in section.charts.values())
    assert "<it>" not in text
    assert "url(http" not in text


def test_bad_input(tmp_path: Path, report: Callable[..., Done]) -> None:
    half, checkpoint, other = tmp_path / "half", tmp_path / "step-00000002", tmp_path / "other"
    write_shard_set(half, num_images=4)
    (half / "dataset.json").unlink()
    for folder in (checkpoint, other, tmp_path / "broken"):
        folder.mkdir()
    (checkpoint / "state.pt").write_bytes(b"state")
    (checkpoint / "config.json").write_text("{}")
    (other / "config.json").write_text('{"epochs": 3}')
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "file").write_text("a file")
    sweep = write_sweep(tmp_path / "sweep", num_trials=2)
    before = sorted(tmp_path.rglob("*"))
    for options, message in (
        ((tmp_path / "nowhere",), "nowhere does not exist: wanted the folder of a shard set"),
        ((tmp_path / "file",), "file is a file"),
        (("s3://bucket/shards",), "a report reads a local or mounted folder"),
        ((half,), "no complete shard set at .*dataset.json is missing"),
        ((checkpoint,), "is a checkpoint: name the run"),
        ((other,), "holds neither a shard set .* nor a run .* nor a sweep"),
        ((tmp_path / "broken",), "config.json cannot be read"),
        ((sweep, "--out", other), "--out .*other is a folder"),
        ((sweep, "--images", "0"), "--images 0 must be from 1 to 240"),
        ((sweep, "--map-images", "-1"), "--map-images -1 must not be negative"),
        ((sweep, "--map", "lle"), "--map"),
        ((), "folder"),
        ((sweep, "--nonsense", "1"), "nonsense"),
        ((sweep, "--out", tmp_path / "file" / "r.html"), "cannot be written"),
    ):
        done = report(*options)
        assert done.code == 2, options
        lines = done.err.strip().splitlines()  # one, or tyro's box
        assert lines[0].startswith("error: ") or "For full helptext" in done.err, lines
        assert re.search(message, done.err, re.IGNORECASE), (options, lines)
        assert sorted(tmp_path.rglob("*")) == before
