"""How many threads a training process takes, alone and beside others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from training.engine.threads import (
    THREADS,
    counted,
    live_trainings,
    num_threads,
    threads_beside_others,
)

OTHER = """
import os, sys
from pathlib import Path
from training.engine.threads import counted
os.sched_setaffinity(0, {int(sys.argv[2])})
with counted(Path(sys.argv[1])):
    print("counted", flush=True)
    sys.stdin.read()
"""


def other_training(folder: Path, core: int) -> subprocess.Popen[str]:
    """A process that is counted until its standard input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), str(core)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


@pytest.mark.parametrize(
    ("processes", "cores", "expected"), [(1, 2, 2), (2, 2, 1), (3, 2, 1), (2, 16, 8), (5, 16, 3)]
)
def test_the_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, processes: int, cores: int, expected: int
) -> None:
    monkeypatch.delenv(THREADS)
    assert num_threads(processes, cores) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    assert num_threads(processes) == expected


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 1)])
def test_what_the_user_sets_wins(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: int
) -> None:
    monkeypatch.setenv(THREADS, given)
    assert num_threads(2, 16) == expected


def test_other_trainings_are_counted_while_they_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(THREADS)
    folder, core = tmp_path / "trainings", min(os.sched_getaffinity(0))
    with counted(folder):
        assert live_trainings(folder) == 1
        ends, is_killed = other_training(folder, core), other_training(folder, core)
        assert live_trainings(folder) == 3
        monkeypatch.setattr("training.engine.threads.FOLDER", folder)
        assert threads_beside_others(cores=12) == 4
        assert "3 training processes share this machine" in capsys.readouterr().out
        ends.communicate("")
        assert live_trainings(folder) == 2
        is_killed.kill()
        is_killed.communicate()
        assert live_trainings(folder) == 1
        assert len(list(folder.iterdir())) == 1  # nothing is left of the killed one
    assert list(folder.iterdir()) == []


def test_a_training_on_other_cores_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_training(tmp_path, min(os.sched_getaffinity(0)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {100_000})
    assert live_trainings(tmp_path) == 1
    other.communicate("")


def test_a_folder_that_cannot_be_written_counts_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with counted(tmp_path / "file"):
        assert live_trainings(tmp_path / "file") == 1
