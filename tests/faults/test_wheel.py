"""The wheel in an environment of its own, used in a folder that has a `training` of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.picture_folders import write_pictures

ROOT = Path(__file__).resolve().parents[2]
UV = (sys.executable, "-m", "uv")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


def said(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """What a command prints; it must end with that exit code."""
    names = ("PYTHONPATH", "PYTHONSAFEPATH", "RAY_ADDRESS", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def test_the_wheel_alone(tmp_path: Path) -> None:
    said(*UV, "build", "--wheel", "--out-dir", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    members = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "salmask/command.py",
        "salmask/py.typed",
        "training/report/templates/page.css",
    } < members
    assert not [name for name in members if name.startswith(("jobs/salmask", "tests"))]
    python = tmp_path / "env" / "bin" / "python"
    said(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    limits = ("--constraint", ROOT / "constraints.txt")
    said(*UV, "pip", "install", "--quiet", "--python", python, *limits, wheel, cwd=tmp_path)

    work = tmp_path / "work"
    write_pictures(work / "pictures", 20)
    for name in ("training", "pipeline"):
        (work / name).mkdir()
        (work / name / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    salmask = python.with_name("salmask")
    assert "salmask precompute" not in said(salmask, "--help", cwd=work), "a table of jobs"
    made = said(salmask, "precompute", "pictures", "shards", cwd=work)
    assert f"next: salmask pretrain --shards {work}/shards" in made
    # Loader processes come from a fork server, which looks for `training` by itself.
    options = ("--recipe", "debug", "--local", "--loader-workers", "1")
    assert "finished 2 steps" in said(salmask, "pretrain", "shards", "run", *options, cwd=work)
    assert "20 images" in said(salmask, "preview", "pictures", cwd=work)
    assert "20 images" in said(salmask, "embed", "run", "shards", "f.parquet", cwd=work)
    said(salmask, "report", "run", cwd=work)
    assert {"preview.html", "f.parquet"} < {path.name for path in work.iterdir()}
    code = (
        "import salmask; print(salmask.ShardSet('work/shards'), salmask.Run('work/run').finished)"
    )
    printed = said(python, "-c", code, cwd=tmp_path)
    assert printed == "ShardSet(shards: 20 images, 3 classes) True\n"
    named = said(python, "-c", "import salmask", cwd=work, code=1).splitlines()[-1]
    assert named.startswith("ImportError: salmask wants its own package 'pipeline'")
