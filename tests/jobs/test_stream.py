"""The job of a stream: a whole one on the command line, its page, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.stream import run
from jobs.stream_options import read_options
from pipeline.core.errors import Stopped
from tests.job_here import Done, job_here
from tests.pretrain_jobs import stream_command
from tests.shard_sets import write_shard_set
from tests.training.report.pages import page_of
from training.stream.forgetting import FORGETTING_FILE


@pytest.fixture
def stream(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    return job_here(run, monkeypatch, capsys)


def test_a_stream_from_the_command_line_and_its_page(
    tmp_path: Path, stream: Callable[..., Done]
) -> None:
    for number, name in enumerate(("a", "b")):
        write_shard_set(tmp_path / name, num_images=34, shard_images=20, first_number=number * 1000)
    out = tmp_path / "out"
    stages = [tmp_path / name for name in "ab"]
    words = stream_command(stages, out, "--epochs", "1", "--local", "--json", "--joint")[2:]
    done = stream(*words)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["finished"]
    assert [row["set"] for row in found["table"]] == ["a", "b"]
    assert set(found["table"][0]) == {
        "set", "figure", "stage 0", "stage 1", "forgotten", "joint", "gap",
    }  # fmt: skip
    assert (out / FORGETTING_FILE).exists()
    assert Path(found["page"]).read_text().startswith("<!DOCTYPE html>")
    config = json.loads((out / "stage-01" / "config.json").read_text())
    assert config["start_from"] == str(out / "stage-00")
    assert config["replay"] == {"shards": [str(tmp_path / "a")], "share": 0.2, "keep": 0.1}
    page = page_of(out)
    (table,) = page["forgetting"].tables
    assert table[1:] == [tuple(row.values()) for row in found["table"]]
    (chart,) = page["forgetting"].charts.values()
    names = [trace["name"] for trace in chart["data"]]
    assert names == ["set 0", "set 1", "set 0, joint", "set 1, joint"]
    assert f"{chart['data'][2]['y'][0]:.2f}" == table[1][5]
    assert "set 1: " in chart["alt"]
    assert page.facts["set 1"].endswith("b")
    again = stream(*words)
    assert json.loads(again.out) == found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--stages a b --val c", "1 --val for 2 --stages: give one for each stage, or none"),
        ("--epochs 3", "a stream has no --stages: name the shards of one or more"),
        ("--stages a --shards b", "--shards b: name the sets of a stream with --stages"),
        ("--stages a --selection s", "--selection .*s: it is for one set, not for a stream"),
        ("--stages nowhere", "error: no shards at .*nowhere: no such folder"),
    ],
)
def test_what_cannot_be_is_one_line(
    tmp_path: Path, stream: Callable[..., Done], words: str, message: str
) -> None:
    done = stream("--local", "--out", tmp_path, *words.split())
    assert done.code == 2
    assert re.search(message, done.err)
    assert done.err.count("\n") == 1


def test_a_stream_that_was_asked_to_stop_says_so(
    tmp_path: Path, stream: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.stream.run.run_stream", lambda *_: None)
    done = stream("--local", "--out", tmp_path, "--stages", "a", "--json")
    assert (done.code, json.loads(done.out)) == (
        Stopped.exit_code,
        {"out": str(tmp_path), "finished": False},
    )
    assert done.err.endswith("stopped: the same command goes on from there\n")


def test_paths_are_absolute_and_buckets_stay() -> None:
    words = "--stages a s3://b/c --val v s3://b/v --out o --start-from r --replay.shards x y"
    stream, local = read_options([*words.split(), "--anchor.kind", "mas"], "A stream.")
    here = Path.cwd()
    assert stream.stages == (here / "a", "s3://b/c")
    assert stream.val == (here / "v", "s3://b/v")
    base = stream.base
    assert (base.out, base.start_from, local) == (here / "o", here / "r", None)
    assert base.replay.shards == (here / "x", here / "y")
    assert (base.anchor.kind, base.optim.warmup_epochs) == ("mas", 1)
