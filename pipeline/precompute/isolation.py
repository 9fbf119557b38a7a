"""Make shards in a child process, so that a crash or a hang over an image costs only that image.

If the child dies over a shard, every image of the shard is tried alone. An image that kills two
processes in a row (three, if it may have been a signal from outside) is rejected, and the shard is
made again without it. A new process first makes the map of a plain picture: if it dies of that, the
saliency source is to blame and no image.
"""

import math
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import psutil
import pyarrow as pa

from pipeline.core.child_process import Child, ChildDied
from pipeline.core.errors import InputError
from pipeline.core.memory import keep_freed_memory
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard, rehearse
from pipeline.precompute.plan import planned_rows

TRIES = 3
"""Of a shard; of an image alone, if signals that may come from outside end its process, else 2."""
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
EXIT_MEMORY = 77
"""Exit code of a child that asked for more memory than its limit."""
BASE_MEMORY, MEMORY_PER_PIXEL = 2 << 30, 32
"""Bytes: an RGB image, its copies on the way to a PNG, and a saliency source's own arrays."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one image may use, for decoding it and for its saliency.

    Attributes:
        cpu_seconds: CPU time of all threads.
        wall_seconds: elapsed time, for a decoder that sleeps.
        memory_bytes: in addition to what the process holds before its first image; None: 2 GiB
            and 32 bytes for each pixel of the largest image that is allowed.
    """

    cpu_seconds: int = 120
    wall_seconds: int = 900
    memory_bytes: int | None = None


class Isolation(Child):
    """A child process that makes shards."""

    def __init__(self, limits: Limits = Limits()) -> None:
        self._limits = limits

    def build(self, job: ShardJob) -> BuiltShard:
        """Make a shard unless it is whole; see `pipeline.precompute.build.ensure_shard`.

        Raises:
            InputError, OSError: as `ensure_shard`; also if the process died over the plain picture,
                or `TRIES` times.
        """
        for _ in range(TRIES):
            try:
                return self._call(ensure_shard, job)
            except ChildDied as died:
                death = self._reason(died)
            planned = planned_rows(job.out, job.number, job.generation)
            rows = [planned.slice(number, 1) for number in range(len(planned))]
            rejected = {row["source"][0].as_py(): self._death(job, row) for row in rows}
            job = replace(job, rejected={source: why for source, why in rejected.items() if why})
        raise InputError(
            f"{job.name} cannot be made: its process {death}, though each of its images passes "
            f"alone ({TRIES} tries)"
        )

    def _death(self, job: ShardJob, row: pa.RecordBatch) -> str:
        """How an image kills its process each time; empty if it does not."""
        death = job.rejected.get(row["source"][0].as_py(), "")
        for attempt in range(0 if death else TRIES):
            try:
                self._call(rehearse, job, row)
                return ""
            except ChildDied as died:
                death = self._reason(died)
                if attempt and -died.exit_code not in OUTSIDE_SIGNALS:
                    break
        return death

    def _call(self, function: Callable[..., Result], job: ShardJob, *arguments: object) -> Result:
        if not self.is_running:
            try:
                self.call(_prepare, job, self._limits)
            except ChildDied as died:
                raise InputError(
                    f"{job.name} cannot be made: the saliency source's process "
                    f"{self._reason(died)}, even with a plain picture"
                ) from None
        result: Result = self.call(_run, self._limits, function, job, *arguments)
        return result

    def _reason(self, died: ChildDied) -> str:
        known = {
            -signal.SIGXCPU: f"needs more than {self._limits.cpu_seconds} s of CPU time",
            -signal.SIGALRM: f"takes more than {self._limits.wall_seconds} s",
            EXIT_MEMORY: "needs more memory than its size allows",
        }
        code = died.exit_code
        signalled = f"kills the decoder (signal {-code})"
        exited = f"ends the decoder's process (exit code {code})"
        return known.get(code, signalled if code < 0 else exited)


# The rest runs in the child.


def _prepare(job: ShardJob, limits: Limits) -> None:
    """Make the map of a plain picture, then limit the memory.

    The map also loads what the saliency source loads once, which the limit does not count.
    """
    keep_freed_memory()
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = np.stack([*np.meshgrid(ramp, ramp[:48]), np.full((48, 64), 90, np.uint8)], -1)
    with suppress(Exception), _limited(limits, 1):  # a source that raises does so at the shard too
        job.saliency([picture])
    budget = limits.memory_bytes or BASE_MEMORY + MEMORY_PER_PIXEL * job.max_pixels
    _set_limit(resource.RLIMIT_DATA, psutil.Process().memory_info().data + budget)


def _run(limits: Limits, function: Callable[..., Result], *arguments: object) -> Result:
    try:
        return function(*arguments, limit=partial(_limited, limits))
    except MemoryError:
        os._exit(EXIT_MEMORY)


@contextmanager
def _limited(limits: Limits, num_images: int) -> Iterator[None]:
    """Let the kernel end this process if the images take too long, also inside of C code.

    The limits are off while the process reads and writes: a slow store is not the image's fault.
    Nobody handles SIGXCPU and SIGALRM, so they end the process.
    """
    cpu_seconds = math.ceil(time.process_time()) + num_images * limits.cpu_seconds
    _set_limit(resource.RLIMIT_CPU, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, num_images * limits.wall_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _set_limit(resource.RLIMIT_CPU, resource.RLIM_INFINITY)


def _set_limit(which: int, soft: int) -> None:
    _, hard = resource.getrlimit(which)
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(limits, default=resource.RLIM_INFINITY), hard))
