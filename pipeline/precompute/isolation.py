"""Make shards in a child process that may crash or hang: that costs one image, not the run.

The child notes the images that it works at. When it dies, each of them is tried alone in a fresh
child. Only an image that kills its process there too is rejected, and the shard is made again
without it. Every child first makes the map of a plain picture, so that a saliency source that kills
any process is not taken for a bad image.
"""

import atexit
import os
import signal
import threading
from dataclasses import replace
from functools import cache

from pipeline.core.child_process import Child, ChildDied
from pipeline.precompute.build import BuiltShard, ShardJob
from pipeline.precompute.isolation_child import CONTROL, EXIT_MEMORY, Limits, read_note, work

SHARD_TRIES = 3
"""How often a shard is tried if no image is to blame, before it fails."""
ALONE_TRIES = 3
"""How often an image is tried alone if a signal from outside killed its process."""
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class ShardError(RuntimeError):
    """A shard cannot be made, and no single image is to blame; the message names it."""


class _Died(Exception):
    """The child died; the message is the reason."""

    def __init__(self, reason: str, from_outside: bool, suspects: list[str]) -> None:
        super().__init__(reason)
        self.from_outside, self.suspects = from_outside, suspects


class Isolation:
    """Makes shards in a child process, which starts when it is first needed.

    Args:
        limits: what one image may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._note = os.fdopen(os.memfd_create("note"), "rb", buffering=0)
        self._child = Child(self._note.fileno())
        self._lock = threading.Lock()

    def build(self, job: ShardJob) -> BuiltShard:
        """Make a shard unless it is there and whole; see `pipeline.precompute.build.ensure_shard`.

        Raises:
            InputError, OSError: as `ensure_shard`.
            ShardError: its process died `SHARD_TRIES` times, and no image is to blame.
        """
        with self._lock:
            tries = 0
            while True:
                try:
                    built = self._work(job)
                    assert built is not None
                    return built
                except _Died as died:
                    killer = self._find_killer(job, died.suspects)
                    job = replace(job, rejected={**job.rejected, **killer})
                    tries += not killer
                    if tries == SHARD_TRIES:
                        last = died.suspects[-1:]
                        at = f", last at {last[0]}, which passes alone" if last else ""
                        raise ShardError(
                            f"{job.name} cannot be made: its process {died}{at} ({tries} tries)"
                        ) from None

    def close(self) -> None:
        """End the child; the next shard starts another."""
        self._child.close()

    def _find_killer(self, job: ShardJob, suspects: list[str]) -> dict[str, str]:
        """The last suspect that kills its process alone, and how; empty if none does."""
        for source in reversed(suspects):
            tries = 0
            while True:
                is_fresh = not self._child.is_running
                try:
                    self._work(job, source)
                    break
                except _Died as died:
                    # In a used process, the image that was tried there before may be to blame.
                    tries += is_fresh
                    if tries == ALONE_TRIES or (is_fresh and not died.from_outside):
                        return {source: str(died)}
        return {}

    def _work(self, job: ShardJob, source: str | None = None) -> BuiltShard | None:
        """Make a shard in the child, or try one of its sources there.

        Raises:
            _Died: the child died at an image, or between images.
            ShardError: the child died over the plain picture.
        """
        try:
            return self._child.call(work, job, source, self._note.fileno(), self._limits)
        except ChildDied as died:
            reason = self._reason(died.exit_code)
            suspects = read_note(self._note.fileno())
            os.ftruncate(self._note.fileno(), 0)
            if suspects[-1:] == [CONTROL]:
                raise ShardError(
                    f"{job.name} cannot be made: the saliency source's process {reason}, "
                    "even with a plain picture"
                ) from None
            raise _Died(reason, -died.exit_code in OUTSIDE_SIGNALS, suspects) from None

    def _reason(self, code: int) -> str:
        if code == -signal.SIGXCPU:
            return f"needs more than {self._limits.cpu_seconds} s of CPU time"
        if code == -signal.SIGALRM:
            return f"takes more than {self._limits.wall_seconds} s"
        if code == EXIT_MEMORY:
            return "needs more memory than its size allows"
        if code < 0:
            return f"kills the decoder (signal {-code})"
        return f"ends the decoder's process (exit code {code})"


@cache
def process_isolation() -> Isolation:
    """The isolation of this process; its child stays warm from shard to shard."""
    isolation = Isolation()
    atexit.register(isolation.close)
    return isolation
