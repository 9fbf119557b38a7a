"""With ``--json`` standard output holds one object and nothing else, as a person has it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.evaluate import run as evaluate
from jobs.pretrain import run as pretrain
from jobs.report import run as report
from tests.job_here import Done, job_here
from tests.pretrain_jobs import ROOT, command, write_sets


def parts(done: Done) -> tuple[dict[str, Any], list[str]]:
    """A job's object, and the lines on its standard error."""
    assert done.code == 0, done.err
    assert done.out.count("\n") == 1
    return json.loads(done.out), done.err.splitlines()


def test_a_run_its_figures_and_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def given(
        job: Callable[[], int | None], *words: str | Path
    ) -> tuple[dict[str, Any], list[str]]:
        return parts(job_here(job, monkeypatch, capfd)(*words, "--json"))

    write_sets(tmp_path, steps_per_epoch=2)
    out = tmp_path / "run"
    line = [*command(tmp_path, out, "--local", "--epochs", "1"), "--json"]
    told = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run(line, cwd=ROOT, env=told, capture_output=True, text=True, check=False)
    run, lines = parts(Done(done.returncode, done.stdout, done.stderr))
    names = [one.rpartition("|")[2].strip() for one in lines]
    assert not {"ray", "pandas", "scipy"} & set(names), "not needed, and slow to import"
    before = next(at for at, one in enumerate(lines) if one.endswith("after 0 steps"))
    assert names.index("tensorboard") > before, "slow to import: after a step"
    said = [one for one in lines if not one.startswith("import time:")]
    assert (run["finished"], run["step"], run["out"]) == (True, 2, str(out))
    assert 0 < run["values"]["loss"] < 10
    assert said[0].startswith("pretraining mobilenet_v3_small by moco_v2 (simclr_small) on 37 im")
    assert said[-1].startswith(f"results    {out} ")
    assert given(pretrain, *line[2:-1], "--quiet") == (run, [])
    sets = ("--train", tmp_path / "train", "--val", tmp_path / "val")
    folder = tmp_path / "evaluation"
    options = ("--local", "--protocol", "knn", "--k", "5", "--results", folder)
    scored, said = given(evaluate, *options, *sets, "--checkpoint", out)
    assert scored["results"] == [json.loads((folder / "results.jsonl").read_text())]
    assert said[-1].startswith(f"results    {folder} ")
    page, said = given(report, out, "--map-images", "0")
    assert page == {
        "report": str(out / "report.html"),
        "kind": "run",
        "bytes": (out / "report.html").stat().st_size,
    }
    assert said[0] == f"reporting the run {out} in {out / 'report.html'}"
