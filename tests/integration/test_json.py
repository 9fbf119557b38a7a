"""With ``--json`` standard output holds one object and nothing else, as a person has it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.pretrain_jobs import command, write_sets

ROOT = Path(__file__).resolve().parents[2]


def given(*words: str | Path) -> tuple[dict[str, Any], list[str]]:
    """A job's object, and the lines on its standard error."""
    done = subprocess.run(
        [*map(str, words), "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout), done.stderr.splitlines()


def test_a_run_its_figures_and_its_report(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out = tmp_path / "run"
    run, said = given(*command(tmp_path, out, "--local", "--epochs", "1"))
    assert (run["finished"], run["step"], run["out"]) == (True, 8, str(out))
    assert 0 < run["values"]["loss"] < 10
    assert said[0].startswith("pretraining resnet18 by moco_v2 (simclr_small) on 133 images of ")
    assert said[-1].startswith(f"results    {out} ")
    again, said = given(*command(tmp_path, out, "--local", "--epochs", "1", "--quiet"))
    assert (again, said) == (run, [])
    job = (sys.executable, "jobs/evaluate.py", "--local", "--protocol", "knn", "--k", "5")
    sets = ("--train", tmp_path / "train", "--val", tmp_path / "val")
    folder = tmp_path / "evaluation"
    scored, said = given(*job, *sets, "--checkpoint", out, "--results", folder)
    assert scored["results"] == [json.loads((folder / "results.jsonl").read_text())]
    assert said[-1].startswith(f"results    {folder} ")
    report, said = given(sys.executable, "jobs/report.py", out, "--map-images", "0")
    assert report == {
        "report": str(out / "report.html"),
        "kind": "run",
        "bytes": (out / "report.html").stat().st_size,
    }
    assert said[0] == f"reporting the run {out} in {out / 'report.html'}"
