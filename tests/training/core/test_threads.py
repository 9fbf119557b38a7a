"""How many threads a training process takes, alone and beside others."""

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from pipeline.core.cores import own_cores
from training.core import threads
from training.core.threads import THREADS, counted, live_trainings, threads_set_by_user

CORES = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def own_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trainings of this test alone, looked at every time; torch's threads are restored."""
    monkeypatch.setattr(threads, "MARK", f"salmask-{tmp_path.name}-{os.getpid()}-")
    monkeypatch.setattr(threads, "SECONDS_BETWEEN_LOOKS", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _training(pipe: Connection) -> None:
    os.sched_setaffinity(0, {min(CORES)})
    with counted():
        pipe.send("counted")
        pipe.recv()


def other_training() -> tuple[BaseProcess, Connection]:
    """A process that is counted until it gets a message."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_training, args=(there,), daemon=True)
    process.start()
    assert here.recv() == "counted"
    return process, here


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", 1), ("", None), ("many", None)])
def test_what_the_user_sets(
    monkeypatch: pytest.MonkeyPatch, given: str, expected: int | None
) -> None:
    monkeypatch.setenv(THREADS, given)
    assert threads_set_by_user() == expected


def test_a_system_that_does_not_say_which_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert (len(own_cores()), live_trainings()) == (os.cpu_count(), 1)


def test_other_trainings_on_the_same_cores_are_counted_while_they_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with counted():
        assert live_trainings() == 1
        (ends, pipe), (is_killed, _) = other_training(), other_training()
        assert live_trainings() == 3
        affinity = os.sched_getaffinity
        with monkeypatch.context() as on_other_cores:
            on_other_cores.setattr(os, "sched_getaffinity", lambda n: affinity(n) if n else {999})
            assert live_trainings() == 1
        pipe.send("end")
        ends.join()
        assert live_trainings() == 2
        is_killed.kill()
        is_killed.join()
        assert live_trainings() == 1
        monkeypatch.setattr(threads, "SOCKETS", Path("nowhere"))
        assert live_trainings() == 1


@pytest.mark.parametrize(
    ("limit", "fixed", "cores", "alone", "beside"),
    [(None, None, 16, 16, 8), (4, None, 16, 4, 4), (None, None, 1, 1, 1), (None, 7, 16, 7, 7)],
)
def test_a_training_gives_up_cores_while_another_one_runs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit: int | None,
    fixed: int | None,
    cores: int,
    alone: int,
    beside: int,
) -> None:
    own = {min(CORES), *range(100, 99 + cores)}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: own)
    with threads.sharing_threads(limit, fixed):
        assert torch.get_num_threads() == alone
        process, _ = other_training()
        threads.update_threads()
        assert torch.get_num_threads() == beside
        line = f"2 training processes on this machine: this one takes {beside} threads"
        assert (line in capsys.readouterr().out) == (alone != beside)
        process.kill()
        process.join()
        threads.update_threads()
        assert torch.get_num_threads() == alone
    threads.update_threads()  # outside a training it does nothing
