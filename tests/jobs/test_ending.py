"""A job's process ends with its code after all exit functions, and before its interpreter does."""

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
