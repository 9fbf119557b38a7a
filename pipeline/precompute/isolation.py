"""Shards are made in a child process that may die or hang: that costs one image, not the run.

The child is started once and makes shard after shard. When it dies, it has left a note of the
images it was at; each of them is tried alone in a fresh child, and only an image that kills its
process there too is rejected, by name, and the shard is made again without it. Every child has
first survived a picture that harms nobody, so a saliency source or a library that kills any
process is not taken for a bad image.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from multiprocessing import Pipe

from pipeline.precompute.build import BuiltShard
from pipeline.precompute.isolation_child import EXIT_MEMORY, Limits, read_note

SHARD_TRIES = 3
"""How often a shard is tried, without an image to blame, before it fails."""
ALONE_TRIES = 3
"""How often an image is tried alone whose process was killed from outside, by its signal."""
OUTSIDE_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)

BOOT = (
    "import json, sys; start = json.loads(sys.argv[1]); sys.path[:] = start.pop('path'); "
    "from pipeline.precompute.isolation_child import serve; serve(**start)"
)


class ShardError(RuntimeError):
    """A shard cannot be made, and no single image is to blame; the message names it."""


@dataclass(frozen=True)
class _Death:
    """How a child died, and where."""

    reason: str
    from_outside: bool
    phase: str
    suspects: tuple[str, ...]


class Isolation:
    """Makes shards in a child process of its own, which is started when it is first needed.

    Args:
        limits: what one image may use.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._child: _Child | None = None
        self._lock = threading.Lock()

    def build(self, name: str, job: bytes) -> BuiltShard:
        """Make a shard unless it is there and whole; see `pipeline.precompute.build.ensure_shard`.

        Args:
            name: of the shard, for errors.
            job: the pickled `ShardJob`.

        Raises:
            InputError, OSError: as `ensure_shard`.
            ShardError: its process dies again and again, and no image is to blame.
        """
        with self._lock:
            rejected: dict[str, str] = {}
            num_tries = 0
            while True:
                built = self._ask(name, ("build", job, rejected))
                if isinstance(built, BuiltShard):
                    return built
                assert isinstance(built, _Death)
                killer = self._find_killer(name, job, built.suspects)
                if killer is not None:
                    rejected.update([killer])
                    continue
                num_tries += 1
                if num_tries == SHARD_TRIES:
                    raise _no_image_is_to_blame(name, built)

    def close(self) -> None:
        """End the child; the next shard starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _find_killer(
        self, name: str, job: bytes, suspects: Sequence[str]
    ) -> tuple[str, str] | None:
        """The first suspect, from the last image back, that kills its process alone, and how."""
        for source in reversed(suspects):
            num_outside = 0
            while True:
                is_fresh = self._child is None
                death = self._ask(name, ("rehearse", job, source))
                if not isinstance(death, _Death):
                    break
                if not is_fresh:
                    continue  # it may have died of the image that was tried there before
                num_outside += death.from_outside
                if not death.from_outside or num_outside == ALONE_TRIES:
                    return source, death.reason
        return None

    def _ask(self, name: str, request: tuple[str, bytes, object]) -> object:
        """The child's answer; a `_Death` where it died over it.

        Raises:
            ShardError: it died over the picture that harms nobody.
        """
        if self._child is None:
            self._child = _Child(self._limits)
        child = self._child
        try:
            kind, answer = child.ask(request)
        except (EOFError, OSError):
            self._child = None
            death = child.bury()
            if death.phase == "control":
                raise ShardError(
                    f"{name} cannot be made: the saliency source's process {death.reason}, "
                    "even with a plain picture"
                ) from None
            return death
        except BaseException:  # an interrupt: whatever it still answers would be out of turn
            self.close()
            raise
        if kind == "failed":
            assert isinstance(answer, Exception)
            raise answer
        return answer


def _no_image_is_to_blame(name: str, death: _Death) -> ShardError:
    at = f", last at {death.suspects[-1]}, which passes alone" if death.suspects else ""
    return ShardError(
        f"{name} cannot be made: its process {death.reason}{at} ({SHARD_TRIES} tries)"
    )


@cache
def process_isolation() -> Isolation:
    """The one of this process: its child stays warm from shard to shard."""
    isolation = Isolation()
    atexit.register(isolation.close)
    return isolation


class _Child:
    """A running child, its connection, its standard input, and the file with its position."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._position = os.memfd_create("position")
        self._stderr = os.memfd_create("stderr")
        self._connection, theirs = Pipe()
        start = {
            "path": sys.path,
            "connection": theirs.fileno(),
            "position": self._position,
            "limits": asdict(limits),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(start)],
            stdin=subprocess.PIPE,  # its end tells the child that this process has ended
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            pass_fds=(theirs.fileno(), self._position),
            start_new_session=True,  # Ctrl-C in a terminal is for the job, not for the child
        )
        theirs.close()

    def ask(self, request: tuple[str, bytes, object]) -> tuple[str, object]:
        self._connection.send(request)
        kind, answer = self._connection.recv()
        return kind, answer

    def kill(self) -> None:
        self._process.kill()
        self.bury()

    def bury(self) -> _Death:
        """Wait for its end and say what it was.

        Raises:
            ShardError: it never came to work; with the last line that it printed.
        """
        code = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._connection.close()
        phase, sources = read_note(self._position)
        os.close(self._position)
        size = os.fstat(self._stderr).st_size
        said = os.pread(self._stderr, size, 0).decode(errors="replace").strip()
        os.close(self._stderr)
        if said and code == 1:
            raise ShardError(f"the process that decodes cannot start: {said.splitlines()[-1]}")
        return _Death(self._reason(code), -code in OUTSIDE_SIGNALS, phase, tuple(sources))

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
