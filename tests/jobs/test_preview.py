"""A page of masks of images that nothing was precomputed of, and nothing else."""

import json
import re
import tempfile
from pathlib import Path

import pytest

from jobs.preview import run
from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.sources.pictures import open_pictures
from tests.job_here import job_here
from tests.picture_folders import write_pictures
from tests.training.report.pages import Page


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", 9)
    (tmp_path / "data" / "class_0" / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "scratch").mkdir()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    job = job_here(run, monkeypatch, capsys)
    done = job("data", "--images", "7", "--saliency", "centre", "--json")
    assert done.code == 0, done.err
    file = tmp_path / "preview.html"
    assert json.loads(done.out) == {"preview": str(file), "images": 6, "rejected": 1}
    assert sorted(tmp_path.rglob("*")) == sorted([*before, file]), "nothing else is left"
    page = Page(file.read_text())
    assert page.facts == {"saliency": "centre", "recipe": "simclr_small", "rejected": "1"}
    masks = page["masks"]
    assert len(masks.cards) == 6
    assert len(masks.labels) == 6 * 6, "image, saliency and four views"
    shown = [label for label in masks.labels if label.startswith("hard negative, ")]
    hidden = [int(label.split()[2].partition("/")[0]) for label in shown]
    assert len(hidden) == 6
    assert min(hidden) >= 60, "a hard negative has lost its foreground"
    assert masks.labels.count("on another background, 0/100 %") >= 5
    assert page["rejected"].tables[0][1][0] == "class_0/a.jpg"
    for words, message in (
        (("nowhere",), "error: no such folder"),
        (("data", "--images", "1"), "error: --images 1 must be from 2 to 240"),
        (("data", "--recipe", "nope"), "error: unknown recipe 'nope'"),
        (("data", "--saliency", "nope"), "error: unknown saliency source"),
        (("data", "--images", "2"), "error: .*data has one image that can be used"),
        (("data", "--out", "data", "--images", "3"), "error: the page .* cannot be written"),
    ):
        done = job(*words)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert re.match(message, done.err), done.err


def test_a_part_of_a_set_is_spread_over_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 20)
    config = PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", saliency="centre")
    assert run_precompute(config, most=4).num_images == 4
    files = (tmp_path / "data").rglob("*.*")
    names = sorted(path.relative_to(tmp_path / "data").as_posix() for path in files)
    found = sorted(open_pictures(tmp_path / "out").names)
    assert found == [names[0], names[6], names[13], names[19]]
    with pytest.raises(InputError, match="was begun with"):
        run_precompute(config)
