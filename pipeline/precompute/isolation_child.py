"""What the child process does: shards, with limits on one image and a note of those it works at.

The kernel ends the process at the limits of time, also while a decoder in C is at work.
"""

import json
import math
import os
import resource
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import psutil

from pipeline.core.memory import keep_freed_memory
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard, rehearse

EXIT_MEMORY = 77
"""Exit code of a process that asked for more memory than its limit."""
CONTROL = ""
"""Stands in the note for the plain picture."""
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
        memory_bytes: on top of what the process holds before its first image; None: 2 GiB and 32
            bytes for each pixel of the largest image that is allowed.
    """

    cpu_seconds: int = 120
    wall_seconds: int = 900
    memory_bytes: int | None = None


class Position:
    """Notes the sources that are worked at, where the parent can read them after a death.

    The limits of time are on while images are decoded or mapped. They are off in between, where the
    process reads and writes: a store that does not answer is no fault of an image.

    Args:
        descriptor: of the file that takes the note.
        limits: of one image.
    """

    def __init__(self, descriptor: int, limits: Limits) -> None:
        self.is_tried = False
        self._descriptor, self._limits = descriptor, limits
        self._noted: set[str] = set()

    def __call__(self, *sources: str) -> None:
        """Work at these sources begins; without sources, it has ended (see `build.Watch`)."""
        # Earlier sources stay in the note: what one has broken may kill the process at the next.
        lines = "".join(f"{json.dumps(s)}\n" for s in sources if s not in self._noted)
        os.write(self._descriptor, lines.encode())
        self._noted.update(sources)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        soft = math.ceil(time.process_time()) + len(sources) * self._limits.cpu_seconds
        # Nobody handles SIGXCPU and SIGALRM, so they end the process.
        resource.setrlimit(resource.RLIMIT_CPU, (_at_most(soft, hard) if sources else hard, hard))
        signal.setitimer(signal.ITIMER_REAL, len(sources) * self._limits.wall_seconds)

    def clear(self) -> None:
        """Empty the note and end the limits of time."""
        self()
        self._noted.clear()
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)

    def try_control(self, job: ShardJob) -> None:
        """Make the map of a plain picture, then set the limit of memory.

        The map also loads what the saliency source loads once, which the limit does not count.
        """
        ramp = np.linspace(0, 255, 64, dtype=np.uint8)
        picture = np.stack([*np.meshgrid(ramp, ramp[:48]), np.full((48, 64), 90, np.uint8)], -1)
        self(CONTROL)
        with suppress(Exception):  # a source that raises does so again at the shard
            job.saliency([picture])
        self.clear()
        budget = self._limits.memory_bytes or BASE_MEMORY + MEMORY_PER_PIXEL * job.max_pixels
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = _at_most(psutil.Process().memory_info().data + budget, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        self.is_tried = True


def _at_most(soft: int, hard: int) -> int:
    return soft if hard == resource.RLIM_INFINITY else min(soft, hard)


def read_note(descriptor: int) -> list[str]:
    """The sources that may be to blame, the last one last; `CONTROL` for the plain picture."""
    *lines, _cut_off = os.pread(descriptor, os.fstat(descriptor).st_size, 0).split(b"\n")
    return [json.loads(line) for line in lines[-MAX_SUSPECTS:]]


@cache
def _position(descriptor: int, limits: Limits) -> Position:
    keep_freed_memory()
    return Position(descriptor, limits)


def work(job: ShardJob, source: str | None, descriptor: int, limits: Limits) -> BuiltShard | None:
    """Make a shard, or do with one of its sources all that is done with it but writing.

    Args:
        job: the shard.
        source: the only one to try; None: make the shard.
        descriptor: of the file that takes the note.
        limits: of one image.

    Raises:
        InputError, OSError: as `pipeline.precompute.build.ensure_shard`.
    """
    position = _position(descriptor, limits)
    try:
        if not position.is_tried:
            position.try_control(job)
        if source is None:
            return ensure_shard(job, position)
        rehearse(job, source, position)
        return None
    except MemoryError:
        os._exit(EXIT_MEMORY)
    finally:
        position.clear()
