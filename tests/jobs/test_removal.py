"""Removing images as users type it: a list or a pipe, and the runs that had seen them."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.precompute import run
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from tests.job_here import job_here
from tests.picture_folders import contents, write_pictures


def test_images_of_a_list_are_removed_and_the_runs_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_here(run, monkeypatch, capsys)
    monkeypatch.setenv("SALMASK_ROOT", str(tmp_path))
    write_pictures(tmp_path / "data", 5)
    config = PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", saliency="centre")
    digest = run_precompute(config).plan_digest
    for name, record in (
        ("a/first", {"data_digest": digest}),
        ("replayed", {"data_digest": "x", "replay_digests": [digest]}),
        ("other", {"data_digest": "x", "replay_digests": None}),
        ("foreign", ["no run"]),
    ):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(record))
    (tmp_path / "list.txt").write_text("class_0/picture 0.jpg\nnowhere.jpg\n")
    before = contents(tmp_path)
    for words, said in (
        ("--remove list.txt --out out", "1 of 2 are no name, key or sha256 of an image in"),
        ("--remove list.txt --out out --runs gone", f"--runs {tmp_path}/gone: no such folder"),
        ("--remove nowhere.txt --out out", "--remove nowhere.txt cannot be read: No such file"),
        (f"--remove {tmp_path}/empty.txt --out out", "is empty: wanted is an image a line"),
    ):
        (tmp_path / "empty.txt").write_bytes(b"\n")
        done = job(*words.split())
        (tmp_path / "empty.txt").unlink()
        assert (done.code, said in done.err, done.err.count("\n")) == (2, True, 1), done.err
        assert contents(tmp_path) == before
    (tmp_path / "list.txt").write_text("class_0/picture 0.jpg\n")
    done = job(*["--remove=list.txt", "--out", "out", "--runs", "runs", "--json"])
    told = json.loads(done.out)
    assert (done.code, told["removed"]) == (0, ["class_0/picture 0.jpg"])
    assert told["runs"] == [str(tmp_path / "runs" / name) for name in ("a/first", "replayed")]
    # of an editor of Windows, and twice
    lines = b"\xef\xbb\xbfclass_1/picture 1.png\r\n\r\nclass_1/picture 1.png"
    pipe = SimpleNamespace(buffer=io.BytesIO(lines))
    monkeypatch.setattr(sys, "stdin", pipe)
    done = job(*["--remove", "-", "--out", "out", "--runs", "runs"])  # they had that, too
    assert done.out.count("trained on the set while it had them: ") == 2
    assert done.out.endswith(f"results    1 image removed from {tmp_path}/out\n")
