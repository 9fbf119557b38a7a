"""How many threads a training process takes, alone and beside others."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from training.core.threads import (
    THREADS,
    ThreadShare,
    counted,
    live_trainings,
    num_threads,
    threads_set_by_user,
)

OTHER = """
import os, sys
from pathlib import Path
from training.core.threads import counted
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


@pytest.fixture
def _threads_kept() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("limit", "trainings", "cores", "expected"),
    [(2, 1, 2, 2), (2, 2, 2, 1), (2, 3, 2, 1), (16, 2, 16, 8), (16, 5, 16, 3), (4, 2, 16, 4)],
)
def test_the_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch, limit: int, trainings: int, cores: int, expected: int
) -> None:
    assert num_threads(limit, trainings, cores) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(cores)))
    assert num_threads(limit, trainings) == expected


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 1), ("", None), ("many", None)])
def test_what_the_user_sets(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: int | None
) -> None:
    monkeypatch.setenv(THREADS, given)
    assert threads_set_by_user() == expected


@pytest.mark.usefixtures("_threads_kept")
def test_a_fixed_number_never_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.core.threads.FOLDER", tmp_path)
    other = other_training(tmp_path, min(os.sched_getaffinity(0)))
    share = ThreadShare(fixed=7)
    share.update()
    assert torch.get_num_threads() == 7
    other.communicate("")


@pytest.mark.usefixtures("_threads_kept")
def test_a_training_gives_up_cores_while_another_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.core.threads.FOLDER", tmp_path)
    monkeypatch.setattr("training.core.threads.SECONDS_BETWEEN_LOOKS", 0)
    real = os.sched_getaffinity(0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: real | set(range(100, 106)))
    cores = len(real) + 6
    with counted():
        share = ThreadShare()
        share.update()
        assert torch.get_num_threads() == cores
        other = other_training(tmp_path, min(real))
        share.update()
        assert torch.get_num_threads() == cores // 2
        assert f"2 training processes on this machine: this one takes {cores // 2}" in (
            capsys.readouterr().out
        )
        other.kill()
        other.communicate()
        share.update()
        assert torch.get_num_threads() == cores


def test_other_trainings_are_counted_while_they_live(
    tmp_path: Path,
) -> None:
    folder, core = tmp_path / "trainings", min(os.sched_getaffinity(0))
    with counted(folder):
        assert live_trainings(folder) == 1
        ends, is_killed = other_training(folder, core), other_training(folder, core)
        assert live_trainings(folder) == 3
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
