"""A job's process ends with its code after all exit functions, and before its interpreter does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB = """
import atexit, os, sys
from jobs.cli import main
from pipeline.core.errors import InputError, Stopped

class Abort:
    def __del__(self):
        os.abort()  # as a thread of Arrow's does that frees an object now

kept = Abort()
atexit.register(print, "an exit function")

def run():
    print("a result", end="")  # not flushed, as the output is a pipe
    {body}

if __name__ == "__main__":
    main(run)
"""


@pytest.mark.parametrize(
    ("body", "code", "err"),
    [
        ("return None", 0, ""),
        ("return 1", 1, ""),
        ("raise InputError('a reason')", 2, "error: a reason\n"),
        ("raise Stopped('later')", 130, "error: later\n"),
        ("sys.exit(2)", 2, ""),
        ("sys.exit()", 0, ""),
    ],
)
def test_the_end(body: str, code: int, err: str, tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(JOB.format(body=body))
    done = subprocess.run(
        [sys.executable, str(job)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (code, err)
    assert done.stdout == "a resultan exit function\n"


def test_a_defect_keeps_its_traceback(tmp_path: Path) -> None:
    job = tmp_path / "job.py"
    job.write_text(JOB.format(body="raise ValueError('a defect')"))
    done = subprocess.run(
        [sys.executable, str(job)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a defect\n")
    assert done.stdout == "a resultan exit function\n"


INTERRUPTS = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
"""
SCRIPT = ["jobs/compare.py"]
COMMAND = ["-c", "import sys; sys.argv[0] = 'salmask'; from salmask.command import *; command()"]


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (SCRIPT, "jobs.terminal"),
        (SCRIPT, "torch"),
        ([*COMMAND, "compare"], "tyro"),
        ([*COMMAND, "compare"], "jobs.compare"),
    ],
)
def test_ctrl_c_while_it_imports_is_no_traceback(job: list[str], name: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS.format(name=name))
    done = subprocess.run(
        [sys.executable, *job, "a", "b"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
