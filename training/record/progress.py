"""Progress from a worker to whoever started it, through the run's folder.

Ray's own forwarding of a worker's output repeats lines and mixes them with its own chatter; the
run's folder is there anyway, and the lines stay in it.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRESS_FILE = "progress.log"
POLL_SECONDS = 0.5


def say(out: Path, line: str) -> None:
    """Appends a line to the run's progress."""
    with (out / PROGRESS_FILE).open("a") as file:
        file.write(line + "\n")


@contextmanager
def shown(out: Path) -> Iterator[None]:
    """Prints what is said from now on while the block runs, and the rest at its end."""
    path = out / PROGRESS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    done = threading.Event()

    def follow() -> None:
        with path.open() as file:
            file.seek(0, 2)
            started.set()
            while True:
                last = done.wait(POLL_SECONDS)
                for line in file:
                    print(line, end="", flush=True)
                if last:
                    return

    started = threading.Event()
    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    started.wait()
    try:
        yield
    finally:
        done.set()
        follower.join()
