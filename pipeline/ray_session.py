"""The Ray that a job works on: the one it is told of, or one of its own for the time."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


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
