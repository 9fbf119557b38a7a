"""Connect to the Ray of RAY_ADDRESS, or start a temporary local Ray."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.exceptions import AuthenticationError

from pipeline.core.errors import InputError, RayUnavailable, check
from pipeline.precompute.ray_private import small_head

CONNECT_SECONDS = 10.0
SETTLE_SECONDS = 2.0
REFUSED = b"InvalidAuthToken"
"""In the lines that Ray's C++ code prints every second where a cluster wants another token."""


@contextmanager
def ray_running() -> Iterator[None]:
    """Connect to the Ray that RAY_ADDRESS names, or start a local one.

    `ray job submit` sets RAY_ADDRESS for its jobs. A nested block does nothing. Ray's own
    messages are suppressed.

    Raises:
        InputError: nothing answers at RAY_ADDRESS, or the working folder has a package of the
            name of one of ours.
        RayUnavailable: Ray does not start, or the cluster does not let this job in.
    """
    if ray.is_initialized():
        yield
        return
    _check_folder()
    _check_token()
    # Its note on token authentication is meant for people who start a cluster.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    # Not "auto": Ray would wait for minutes for a cluster that has died and left its address.
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    refused: list[bytes] = []
    try:
        with small_head() if address == "local" else without_lines(REFUSED) as refused:
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
    except Exception as error:  # most of them bare RuntimeErrors
        raise _unavailable(address, error, wants_token=bool(refused)) from error
    try:
        yield
    finally:
        ray.shutdown()


def _unavailable(address: str, error: Exception, *, wants_token: bool) -> RayUnavailable:
    """The error for a Ray that does not start, or does not let this job in."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if reason.endswith(":"):  # what it leads to stands on further lines
        reason = reason.rpartition(". ")[0] or reason
    reason = reason.rstrip(".:")
    if wants_token or isinstance(error, AuthenticationError):
        return RayUnavailable(
            f"the cluster at RAY_ADDRESS {address} wants a token, and this shell has none or "
            "another: after make cluster-up source runs/cluster/env; elsewhere set "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH"
        )
    if address != "local":
        return RayUnavailable(f"the cluster at RAY_ADDRESS {address} cannot be used ({reason})")
    return RayUnavailable(
        f"Ray did not start ({reason}): the machine is too busy, or short of memory; give the "
        "command again, or give it with --local where the job has that"
    )


def _check_folder() -> None:
    """Raise InputError where Ray's workers, which look in the working folder first, find others."""
    own, here = Path(__file__).resolve().parents[2], Path.cwd().resolve()
    for name in () if here == own else ("pipeline", "training", "jobs"):
        check(
            not (here / name / "__init__.py").exists(),
            f"{here / name} has the name of a package of salmask, and Ray's workers would import "
            "it: work in another folder, or with --local",
        )


def _check_token() -> None:
    """Raise RayUnavailable for a token at which Ray's C++ code would abort the process."""
    file = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    given, where = os.environ.get("RAY_AUTH_TOKEN", "").encode(errors="replace"), "RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return
    if not given and Path(file).is_file():
        given, where = Path(file).read_bytes(), f"RAY_AUTH_TOKEN_PATH {file}"
    if not all(32 < letter < 127 for letter in given.strip()):
        raise RayUnavailable(
            f"the token of {where} is not one: its letters must be plain ASCII, without spaces"
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
def without_lines(note: bytes) -> Iterator[list[bytes]]:
    """Drop lines that contain the note from standard error, also those that C++ code prints.

    Yields the list of what was dropped so far.
    """
    dropped: list[bytes] = []
    kept = os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def copy() -> None:
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                if note in line:
                    dropped.append(line)
                else:
                    os.write(kept, line)

    copying = threading.Thread(target=copy, daemon=True)
    copying.start()
    try:
        yield dropped
    finally:
        os.dup2(kept, 2)  # closes the pipe, so that the thread sees its end
        copying.join(SETTLE_SECONDS)
        if not copying.is_alive():  # else a process that was started meanwhile still writes there
            os.close(kept)
