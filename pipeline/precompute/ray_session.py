"""Connect to the Ray of RAY_ADDRESS, or start a temporary local Ray."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from pipeline.core.errors import InputError, RayUnavailable

CONNECT_SECONDS = 10.0
SETTLE_SECONDS = 2.0


@contextmanager
def ray_running() -> Iterator[None]:
    """Connect to the Ray that RAY_ADDRESS names, or start a local one.

    `ray job submit` sets RAY_ADDRESS for its jobs. A nested block does nothing. Ray's own
    messages are suppressed.

    Raises:
        InputError: nothing answers at RAY_ADDRESS.
        RayUnavailable: Ray does not start, or the cluster does not let this job in.
    """
    if ray.is_initialized():
        yield
        return
    # Its note on token authentication is meant for people who start a cluster.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Not "auto": Ray would wait for minutes for a cluster that has died and left its address.
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    try:
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # most of them bare RuntimeErrors
        raise _unavailable(address, error) from error
    try:
        yield
    finally:
        ray.shutdown()


def _unavailable(address: str, error: Exception) -> RayUnavailable:
    """The error for a Ray that does not start, or does not let this job in."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
    if isinstance(error, AuthenticationError):
        return RayUnavailable(
            f"the cluster at RAY_ADDRESS {address} wants a token ({reason}): after make cluster-up "
            "source runs/cluster/env; elsewhere set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )
    if address != "local":
        return RayUnavailable(f"the cluster at RAY_ADDRESS {address} cannot be used ({reason})")
    return RayUnavailable(
        f"Ray did not start ({reason}): the machine is too busy, or short of memory; give the "
        "command again, or give it with --local where the job has that"
    )


def _check_answers(address: str) -> None:
    """Raise InputError if nothing listens at a `host:port`; Ray would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at RAY_ADDRESS {address} ({error}): start it (make "
            "cluster-up), or unset RAY_ADDRESS"
        ) from error


@contextmanager
def without_lines(note: bytes) -> Iterator[None]:
    """Drop lines that contain the note from standard error, also those that C++ code prints."""
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
