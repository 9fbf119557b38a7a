"""The Ray that a job works on: the one it is told of, or one of its own for the time."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray

SETTLE_SECONDS = 2.0


@contextmanager
def ray_running() -> Iterator[None]:
    """Connects to the Ray that RAY_ADDRESS names, or starts one of its own.

    ``ray job submit`` sets RAY_ADDRESS for its jobs. Inside another such block nothing happens.
    Ray's own chatter is kept quiet: what a job has to say, it says itself.
    """
    if ray.is_initialized():
        yield
        return
    # Its note on token authentication is for those who start a cluster.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Never looked for: the note of a cluster that has died would be waited for, for minutes.
    address = os.environ.get("RAY_ADDRESS") or "local"
    ray.init(
        address=address,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def without_lines(note: bytes) -> Iterator[None]:
    """Keeps lines with the note off standard error, also those that C++ code prints.

    Args:
        note: what such a line holds.
    """
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def copy() -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if note not in line:
                    os.write(kept, line)

    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    try:
        yield
    finally:
        os.dup2(kept, 2)  # closes the pipe, so that the thread sees its end
        copying.join(SETTLE_SECONDS)
        if not copying.is_alive():  # else a process that was started meanwhile still writes there
            os.close(kept)
