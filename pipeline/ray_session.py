"""The Ray that a job works on: the one that is there, or one of its own for the time."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def ray_running() -> Iterator[None]:
    """Connects to the running Ray (RAY_ADDRESS, or the newest of this machine), or starts one.

    Inside another such block nothing happens. Ray's own chatter is kept quiet: what a job has to
    say, it says itself.
    """
    if ray.is_initialized():
        yield
        return
    # Its note on token authentication is for those who start a cluster.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
