"""Lines and progress of a worker, relayed through the run's folder to the process that started it.

Ray's own forwarding of output repeats lines and mixes them with its own messages.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

from pipeline.core import progress
from pipeline.core.progress import Standing
from pipeline.storage.atomic import append_text

PROGRESS_FILE, STANDING_FILE = "progress.log", "progress.json"
"""All lines; the latest progress."""
NOTE = "  "
"""Prefix of lines that are logged but not shown: their note is shown with the progress."""
POLL_SECONDS = 0.5
WRITE_SECONDS = 1.0


class Relay:
    """A listener that writes into a run's folder `out`, by a monotonic clock in seconds."""

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._out, self._clock = out, clock
        self._written = float("-inf")
        self._note = ""

    def say(self, line: str) -> None:
        """Appends a line to the run's log."""
        with (self._out / PROGRESS_FILE).open("a") as file:
            append_text(file, line + "\n")

    def show(self, standing: Standing) -> None:
        """Writes the progress at most once a second, and logs each new note."""
        if standing.note and standing.note != self._note:
            self._note = standing.note
            where = f"{standing.done}/{standing.total} {standing.unit}"
            self.say(f"{NOTE}{standing.work}: {where}; {standing.note}")
        now = self._clock()
        if now - self._written >= WRITE_SECONDS:
            self._written = now
            temporary = self._out / f".{STANDING_FILE}.tmp"
            with suppress(OSError):  # a full disk does not end a run for its display
                temporary.write_text(json.dumps(asdict(standing)))  # not flushed: it may get lost
                temporary.replace(self._out / STANDING_FILE)


@contextmanager
def shown(out: Path, fetch: Callable[[bool], None] | None = None) -> Iterator[None]:
    """While the block runs, this process's listener gets what is relayed through a folder.

    `fetch` is called before each look into it, with whether that is the last.
    """
    path = out / PROGRESS_FILE
    out.mkdir(parents=True, exist_ok=True)
    path.touch()
    (out / STANDING_FILE).unlink(missing_ok=True)
    done = threading.Event()
    with path.open() as file:
        file.seek(0, 2)

        def follow() -> None:
            latest, pending, is_last = b"", "", False
            while not is_last:
                is_last = done.wait(POLL_SECONDS)
                if fetch is not None:
                    fetch(is_last)
                *lines, pending = (pending + file.read()).split("\n")
                for line in lines:
                    if not line.startswith(NOTE):
                        progress.say(line)
                with suppress(FileNotFoundError):
                    standing = (out / STANDING_FILE).read_bytes()
                    if standing != latest:
                        latest = standing
                        progress.show(Standing(**json.loads(standing)))

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
