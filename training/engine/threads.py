"""How many threads a training takes: the cores, shared with the other trainings on this machine."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from pipeline.core.progress import say

THREADS = "OMP_NUM_THREADS"
FOLDER = Path(tempfile.gettempdir()) / "salmask-trainings"
"""A locked file per training process of this machine: the cores that it may use, as JSON."""


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


def threads_beside_others(processes: int = 1, cores: int | None = None) -> int:
    """Like `num_threads`, for a training that starts now beside those that are running.

    Logs the number of threads if other trainings take a part of the cores.

    Args:
        processes: of this training on this machine, 1 or more, all `counted`.
        cores: as in `num_threads`.
    """
    live = live_trainings()
    threads = num_threads(max(processes, live), cores)
    if live > processes and THREADS not in os.environ:
        say(
            f"{live} training processes share this machine: this one takes {threads} "
            f"thread{'s' * (threads > 1)} (set {THREADS} for another number)"
        )
    return threads


def num_threads(processes: int, cores: int | None = None) -> int:
    """Threads of a process: the cores divided by the training processes of this machine.

    OMP_NUM_THREADS wins where it is set. More threads than cores wait for each other, and their
    number decides the order of float sums: the same number gives the same bits.

    Args:
        processes: training processes of this machine, 1 or more.
        cores: that they share; None: those that this process may use.
    """
    if os.environ.get(THREADS, "").isdecimal():
        return max(1, int(os.environ[THREADS]))
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, cores // processes)
