"""The errors that a job reports in one line, each with the exit code that the job ends with."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar


class JobError(Exception):
    """A failure with a reason that a person can act on: one clear line instead of a traceback."""

    exit_code: ClassVar[int] = 1


class InputError(JobError, ValueError):
    """What a person gave cannot be used, or names a file that does not exist.

    The message says what was given, what was wanted and what to do.
    """

    exit_code = 2


class StoreUnavailable(JobError):
    """A store did not answer for as long as it was retried."""

    exit_code = 3


class DamagedSample(JobError):
    """One sample of a shard set cannot be read or decoded; the message names shard and key."""

    exit_code = 4


class Diverged(JobError):
    """The loss of a run is no longer finite."""

    exit_code = 5


class Collapsed(JobError):
    """The embeddings of a run have collapsed, and ``on_collapse`` is ``stop``."""

    exit_code = 6


class RayUnavailable(JobError):
    """Ray did not start, or did not let the job in."""

    exit_code = 7


class Stopped(JobError):
    """A signal ended the work before it was done; the same command continues it."""

    exit_code = 130  # what a shell reports for Ctrl-C


class ImageError(ValueError):
    """The bytes of one image are unusable; the message is the reason on the rejected list."""


def check(fits: bool, message: str) -> None:
    """Raise `InputError` with a message unless something that a person gave fits."""
    if not fits:
        raise InputError(message)


@contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """Within it, whatever a damaged or foreign file raises is an `InputError` that names it."""
    try:
        yield
    except JobError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} is damaged ({why}): {advice}") from error


def first_ten(names: Sequence[str]) -> str:
    """At most ten names, for a message, and the number of those that are left out."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"{', '.join(names[:10])}{more}" if names else "none"


def write_error(what: str, error: OSError) -> InputError:
    """Returns the error for a file or folder that cannot be written; `what` names it."""
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "free some space and" if is_full else "mend that and"
    return InputError(
        f"{what} cannot be written: {error.strerror or error}; {advice} run this again: "
        "what is finished is kept"
    )


NOT_WRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT}


def unwritable(error: BaseException | None) -> InputError | None:
    """The error for a file that cannot be written, where that is the cause; None: it is not."""
    while error is not None:
        # A connection that has the name of a file: of a network mount.
        is_mount = isinstance(error, ConnectionError) and bool(error.filename)
        if isinstance(error, OSError) and (error.errno in NOT_WRITABLE or is_mount):
            return write_error(str(error.filename or "a file"), error)
        error = error.__cause__
    return None


def find_job_error(error: BaseException | None, *, link: str = "__cause__") -> JobError | None:
    """The `JobError` that an exception is or was caused by; None where it is something else."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        # A RayTaskError is of the class of its cause and has the worker's traceback for a message:
        # the cause comes first.
        inner = getattr(error, "cause", None)
        if isinstance(error, JobError) and not isinstance(inner, BaseException):
            return error
        error = inner if isinstance(inner, BaseException) else getattr(error, link)
    return None
