"""How many threads a training process takes."""

import os

import pytest

from training.device import THREADS, num_threads


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
