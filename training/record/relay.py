"""What a worker tells, on its way through the run's folder to whoever started the run.

Ray's own forwarding of a worker's output repeats lines and mixes them with its own chatter; the
run's folder is there anyway, and the lines stay in it.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from pipeline.core.progress import Standing
from pipeline.core.progress import say as tell
from pipeline.core.progress import show as tell_standing

PROGRESS_FILE, STANDING_FILE = "progress.log", "progress.json"
"""All lines; how far the work is that was told of last."""
NOTE = "  "
"""What a line begins with that stays in the file: the driver has it with the standing."""
POLL_SECONDS = 0.5
WRITE_SECONDS = 1.0


def say(out: Path, line: str) -> None:
    """Appends a line to the run's progress."""
    with (out / PROGRESS_FILE).open("a") as file:
        file.write(line + "\n")


class Relay:
    """Hands on what this process tells, through a run's folder.

    Args:
        out: the folder, which is there.
        clock: seconds that only grow.
    """

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._written = float("-inf")
        self._note = ""

    def say(self, line: str) -> None:
        """Appends it to the run's progress."""
        say(self._out, line)

    def show(self, standing: Standing) -> None:
        """Writes it where the driver looks, at most once a second, and keeps a new note."""
        if standing.note and standing.note != self._note:
            self._note = standing.note
            where = f"{standing.done}/{standing.total} {standing.unit}"
            self.say(f"{NOTE}{standing.work}: {where}; {standing.note}")
        now = self._clock()
        if now - self._written >= WRITE_SECONDS:
            self._written = now
            with suppress(OSError):  # a display that is late is not worth a run
                self._write(json.dumps(asdict(standing)))

    def _write(self, text: str) -> None:
        # whole when it is read, but never flushed to the disk: nobody waits for that in training
        temporary = self._out / f".{STANDING_FILE}.tmp"
        temporary.write_text(text)
        temporary.replace(self._out / STANDING_FILE)


@contextmanager
def shown(out: Path) -> Iterator[None]:
    """Tells this process's listener what is relayed from now on, and the rest at the end."""
    path = out / PROGRESS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (out / STANDING_FILE).unlink(missing_ok=True)
    started, done = threading.Event(), threading.Event()

    def follow() -> None:
        latest, pending = None, ""
        with path.open() as file:
            file.seek(0, 2)
            started.set()
            while True:
                last = done.wait(POLL_SECONDS)
                *lines, pending = (pending + file.read()).split("\n")
                for line in lines:
                    if not line.startswith(NOTE):
                        tell(line)
                standing = _standing(out)
                if standing not in (None, latest):
                    latest = standing
                    tell_standing(Standing(**json.loads(standing)))
                if last:
                    return

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    started.wait()
    try:
        yield
    finally:
        done.set()
        follower.join()


def _standing(out: Path) -> bytes | None:
    """What a worker wrote last; None before that."""
    with suppress(FileNotFoundError):
        return (out / STANDING_FILE).read_bytes()
    return None
