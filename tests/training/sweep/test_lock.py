"""One driver a folder; a driver that is gone holds nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from training.sweep.lock import LOCK_FILE, locked

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


def take(folder: Path) -> None:
    """Holds the lock for a moment."""
    with locked(folder):
        assert (folder / LOCK_FILE).exists()


def test_a_second_driver_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    take(tmp_path)
    command = [sys.executable, "-c", HOLD, str(tmp_path / LOCK_FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match="another process runs the sweep"):
            take(tmp_path)
        other.kill()
        other.wait()
    take(tmp_path)


def test_a_place_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        take(tmp_path / "file" / "sweep")
