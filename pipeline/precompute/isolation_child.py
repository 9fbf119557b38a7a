"""The inside of the process that makes shards: limits on one image, and a note of where it is.

`isolation` starts it and looks after it. A decoder in C may crash here, or never come back: the
kernel ends the process at the limits, also when nobody is left to look.
"""

import json
import math
import os
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np

from pipeline.core.memory import keep_freed_memory
from pipeline.precompute.build import ShardJob, ensure_shard, rehearse

EXIT_MEMORY = 77
"""Exit code of a process that has asked for more memory than its limit."""
MAX_SUSPECTS = 96
"""More than the images of a batch, and those rejected in between."""
BASE_MEMORY = 2 << 30
MEMORY_PER_PIXEL = 32
"""Bytes: an RGB image, its copies on the way to a PNG, and a saliency source's own arrays."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image may use.

    Attributes:
        cpu_seconds: CPU time of all threads, for decoding it and for its saliency.
        wall_seconds: time on the clock for the same, for a decoder that sleeps for ever.
        memory_bytes: above what the process holds before it; None: by the pixel limit, which is
            2 GiB and 32 bytes a pixel.
    """

    cpu_seconds: int = 120
    wall_seconds: int = 900
    memory_bytes: int | None = None


class Position:
    """Where the process is, written where the parent can read it after a death.

    At an image the limits are on; between images, where it reads and writes, they are off: a
    store that does not answer is no fault of an image.
    """

    def __init__(self, descriptor: int, limits: Limits) -> None:
        self._descriptor = descriptor
        self._limits = limits
        self._noted: set[str] = set()

    def __call__(self, *sources: str) -> None:
        """Work at these sources begins; at none: it has ended (see `build.Watch`)."""
        if not sources:
            self._away()
            return
        # what one image has broken may kill the process over the next: those before stay noted
        self._note(*(source for source in sources if source not in self._noted))
        self._noted.update(sources)
        self._limit(len(sources))

    def control(self) -> None:
        """About to try the picture that harms nobody."""
        self._note(None)
        self._limit(1)

    def begin(self) -> None:
        """Another request, or the end of one: nobody is under suspicion."""
        self._noted.clear()
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._away()

    def _away(self) -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _note(self, *entries: str | None) -> None:
        if entries:
            os.write(self._descriptor, "".join(f"{json.dumps(e)}\n" for e in entries).encode())

    def _limit(self, num_images: int) -> None:
        used = math.ceil(time.process_time())
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = used + num_images * self._limits.cpu_seconds
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        # SIGXCPU and SIGALRM end the process where nobody handles them, and Python does not
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, num_images * self._limits.wall_seconds)


def read_note(descriptor: int) -> tuple[str, list[str]]:
    """Phase ("images", "control" or "") and the sources that may be to blame, the last one last."""
    *lines, _cut_off = os.pread(descriptor, os.fstat(descriptor).st_size, 0).split(b"\n")
    entries = [json.loads(line) for line in lines[-MAX_SUSPECTS:]]
    if not entries:
        return "", []
    return ("control", []) if entries[-1] is None else ("images", entries)


class _Worker:
    """Answers requests: ("build", job, rejected) or ("rehearse", job, source)."""

    def __init__(self, position: Position, limits: Limits) -> None:
        self._position = position
        self._limits = limits
        self._is_tried = False

    def answer(self, request: tuple[str, bytes, object]) -> object:
        what, pickled, argument = request
        job: ShardJob = pickle.loads(pickled)
        if not self._is_tried:
            self._try_control(job)
            self._is_tried = True
        if what == "rehearse":
            assert isinstance(argument, str)
            rehearse(job, argument, self._position)
            return None
        assert isinstance(argument, dict)
        return ensure_shard(replace(job, rejected=argument), self._position)

    def _try_control(self, job: ShardJob) -> None:
        """Tell a source that kills every process from an image that does.

        It also loads what the saliency source loads once, so that the memory limit, which is
        for one image, is counted from there.
        """
        self._position.control()
        ramp = np.linspace(0, 255, 64, dtype=np.uint8)
        picture = np.stack([*np.meshgrid(ramp, ramp[:48]), np.full((48, 64), 90, np.uint8)], -1)
        with suppress(Exception):  # a source that raises says so again, at the shard
            job.saliency([picture])
        self._position.begin()
        _limit_memory(self._limits, job.max_pixels)


def _limit_memory(limits: Limits, max_pixels: int) -> None:
    budget = limits.memory_bytes or BASE_MEMORY + MEMORY_PER_PIXEL * max_pixels
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = _data_bytes() + budget
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts: private memory that can be written to, without stacks."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        (line,) = (line for line in file if line.startswith("VmData:"))
    return int(line.split()[1]) << 10


def _die_with_parent() -> None:
    """Standard input is a pipe that nobody writes to: it ends when the parent does."""

    def wait() -> None:
        while os.read(0, 1):
            continue
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _sendable(error: Exception) -> Exception:
    """The error with its trace in words, which alone go on where it does not survive the way."""
    trace = "".join(traceback.format_exception(error))
    error.add_note(trace)
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception's own __reduce__ or __init__ raises
        return RuntimeError(trace)
    if type(again) is not type(error) or str(again) != str(error):
        return RuntimeError(trace)
    return error


def serve(connection: int, position: int, limits: dict[str, int | None]) -> None:
    """Answer the parent's requests until it goes away.

    Args:
        connection: descriptor of the connection that requests come from.
        position: descriptor of the file that says where the process is.
        limits: the fields of `Limits`.
    """
    _die_with_parent()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected: no core files
    # from here on what is wrong is sent; what C libraries print about damaged images is not
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    keep_freed_memory()
    own = Limits(**limits)  # type: ignore[arg-type]
    where = Position(position, own)
    worker = _Worker(where, own)
    _loop(Connection(connection), where, worker.answer)


def _loop(
    parent: Connection,
    position: Position,
    answer: Callable[[tuple[str, bytes, object]], object],
) -> None:
    while True:
        try:
            request = parent.recv()
        except EOFError:
            sys.exit(0)
        reply: tuple[str, object]
        try:
            reply = ("done", answer(request))
        except MemoryError:
            os._exit(EXIT_MEMORY)
        except Exception as error:
            reply = ("failed", _sendable(error))
        position.begin()
        parent.send(reply)
