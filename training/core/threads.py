"""How many threads a training takes: the cores, shared with the other trainings on this machine."""

import math
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pipeline.core.cores import own_cores
from pipeline.core.progress import say

THREADS = "OMP_NUM_THREADS"
MARK = "salmask-training-"
"""Start of the name of a socket, followed by a process's id; the system forgets it with the
process."""
SOCKETS = Path("/proc/net/unix")
SECONDS_BETWEEN_LOOKS = 1.0


def threads_set_by_user() -> int | None:
    """The value of OMP_NUM_THREADS; None where it is not set."""
    value = os.environ.get(THREADS, "")
    return max(1, int(value)) if value.isdecimal() else None


@contextmanager
def counted() -> Iterator[None]:
    """While the block runs, this process is one of the machine's training processes.

    Where a system refuses such a socket, the process is not counted.
    """
    with socket.socket(socket.AF_UNIX) as mark:
        with suppress(OSError):
            mark.bind(f"\0{MARK}{_container()}-{os.getpid()}-{id(mark)}")  # a name without a file
        yield


def _container() -> int:
    """What tells processes apart whose ids may be the same: they may share a network."""
    return os.stat("/proc/self/ns/pid").st_ino


def live_trainings() -> int:
    """Training processes that may use one of this process's cores, at least 1: itself."""
    own, count = set(own_cores()), 0
    with suppress(OSError):
        name = rf"@{MARK}{_container()}-(\d+)"
        for process in re.findall(name, SOCKETS.read_text(errors="replace")):
            with suppress(ProcessLookupError):
                count += not own.isdisjoint(os.sched_getaffinity(int(process)))
    return max(1, count)


class _Share:
    """The threads of a `counted` process: its share of the cores that it may use.

    Two trainings of two threads each on two cores run ten times slower than of one thread each.
    """

    def __init__(self, limit: int | None, fixed: int | None) -> None:
        self._cores, self._fixed = len(own_cores()), fixed
        self._limit = limit or self._cores
        self._threads, self._looked_at = fixed or self._limit, -math.inf
        torch.set_num_threads(self._threads)

    def update(self) -> None:
        now = time.monotonic()
        if self._fixed is not None or now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at, trainings = now, live_trainings()
        threads = max(1, min(self._limit, self._cores // trainings))
        if threads != self._threads:
            self._threads = threads
            torch.set_num_threads(threads)
            say(
                f"{trainings} training process{'es' * (trainings > 1)} on this machine: this one "
                f"takes {threads} thread{'s' * (threads > 1)} (set {THREADS} for a fixed number)"
            )


_share: _Share | None = None


@contextmanager
def sharing_threads(limit: int | None = None, fixed: int | None = None) -> Iterator[None]:
    """While the block runs, this process shares the machine's cores with the other trainings.

    The number of threads decides the order of float sums, so the same run has the same bits only
    while its share stays the same, or with a fixed number.

    Args:
        limit: threads that the process may take at most, 1 or more; None: all cores.
        fixed: a number that never changes; None: the share.
    """
    global _share
    with counted():
        _share = _Share(limit, fixed)
        _share.update()
        try:
            yield
        finally:
            _share = None


def update_threads() -> None:
    """Adjusts the threads to the other trainings, at most once a second; called at every step."""
    if _share is not None:
        _share.update()
