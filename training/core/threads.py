"""How many threads a training takes: the cores, shared with the other trainings on this machine."""

import fcntl
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import torch

from pipeline.core.progress import say

THREADS = "OMP_NUM_THREADS"
FOLDER = Path(tempfile.gettempdir()) / "salmask-trainings"
"""A locked file per training process of this machine: the cores that it may use, as JSON."""
SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def counted(folder: Path | None = None) -> Iterator[None]:
    """While the block runs, this process is one of the machine's training processes.

    Args:
        folder: shared by all of them; None: FOLDER. Where it cannot be written, this process is
            not counted.
    """
    folder = folder or FOLDER
    name, cores = f"{os.getpid()}-{uuid4().hex}", json.dumps(sorted(os.sched_getaffinity(0)))
    with ExitStack() as stack:
        with suppress(OSError):
            if not folder.is_dir():
                folder.mkdir()
                folder.chmod(0o1777)  # other users' trainings count too
            new, path = folder / f"{name}.new", folder / f"{name}.lock"
            file = stack.enter_context(new.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(cores)
            file.flush()
            new.rename(path)  # locked before others see it
            stack.callback(path.unlink, missing_ok=True)
        yield


def live_trainings(folder: Path | None = None) -> int:
    """Training processes that may use one of this process's cores, at least 1: itself.

    Files of processes that were killed are removed.
    """
    own, count = os.sched_getaffinity(0), 0
    for path in (folder or FOLDER).glob("*.lock"):
        with suppress(OSError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                count += not own.isdisjoint(json.load(file))
            else:
                path.unlink()
    return max(1, count)


def num_threads(limit: int, trainings: int, cores: int | None = None) -> int:
    """Threads of a training process: its share of the machine's cores.

    More threads than cores wait for each other: two trainings with two threads each on two cores
    run ten times slower than with one each.

    Args:
        limit: threads that it may take at most, 1 or more.
        trainings: training processes of this machine, 1 or more.
        cores: that they share; None: those that this process may use.
    """
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, min(limit, cores // trainings))


def threads_set_by_user() -> int | None:
    """The value of OMP_NUM_THREADS; None where it is not set."""
    value = os.environ.get(THREADS, "")
    return max(1, int(value)) if value.isdecimal() else None


class ThreadShare:
    """Keeps the threads of a `counted` process at its share of the machine's cores.

    The number of threads decides the order of float sums. So the same run has the same bits only
    while its share stays the same, or with OMP_NUM_THREADS set.

    Args:
        limit: threads that the process may take at most, 1 or more; None: all cores.
        fixed: a number that never changes; None: the share.
    """

    def __init__(self, limit: int | None = None, fixed: int | None = None) -> None:
        self._limit, self._fixed = limit or len(os.sched_getaffinity(0)), fixed
        self._threads, self._looked_at = fixed or self._limit, -math.inf
        torch.set_num_threads(self._threads)

    def update(self) -> None:
        """Look at the other trainings, at most once a second, and change the threads if needed."""
        now = time.monotonic()
        if self._fixed is not None or now - self._looked_at < SECONDS_BETWEEN_LOOKS:
            return
        self._looked_at, trainings = now, live_trainings()
        threads = num_threads(self._limit, trainings)
        if threads != self._threads:
            self._threads = threads
            torch.set_num_threads(threads)
            say(
                f"{trainings} training process{'es' * (trainings > 1)} on this machine: this one "
                f"takes {threads} thread{'s' * (threads > 1)} (set {THREADS} for a fixed number)"
            )


_share: ThreadShare | None = None


@contextmanager
def sharing_threads(limit: int | None = None, fixed: int | None = None) -> Iterator[None]:
    """While the block runs, this process shares the machine's cores with the other trainings.

    Args:
        limit: threads that the process may take at most, 1 or more; None: all cores.
        fixed: a number that never changes; None: the share.
    """
    global _share
    with counted():
        _share = ThreadShare(limit, fixed)
        _share.update()
        try:
            yield
        finally:
            _share = None


def update_threads() -> None:
    """Called before a step: keeps the threads at this process's share, if it shares them."""
    if _share is not None:
        _share.update()
