"""One process at a time for a folder that is written to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.core.errors import InputError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """While the block runs, others on this machine that ask for the same folder are refused.

    The folder is made; if it is empty in the end, it is taken away again. The lock ends with the
    process, however that ends. Where a file system has no locks for folders there is none.

    Raises:
        InputError: another process has it.
    """
    made: list[Path] = []
    descriptor: int | None = None
    try:
        with suppress(OSError):  # what cannot be made is said by who writes there
            made = [place for place in (folder, *folder.parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        if descriptor is not None and not _locked(descriptor):
            raise InputError(
                f"another process writes to {folder}: run this again once it has ended"
            )
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # of a network's file system
    return True
