"""Write files atomically: under a temporary name, flushed, then renamed."""

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipeline.core import faults
from pipeline.core.errors import write_error

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_file(path: Path, *, settle: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that is renamed to `path` when the block succeeds.

    A missing folder is created. After an error an existing file at `path` is unchanged. `settle`
    flushes the folder too, so that the new name survives a power cut.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    with errors_naming(path):
        try:
            _point("create", path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                yield file
                _point("write", path)
                file.flush()
                os.fsync(file.fileno())
            _point("rename", path)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):  # what ended the block may stop this, too
                temporary.unlink(missing_ok=True)
            raise
        if settle:
            _point("settle", path)
            settle_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all or nothing."""
    with atomic_file(path) as file:
        file.write(data)


def append_text(file: IO[str], text: str) -> None:
    """Append to an open file; an error names it."""
    with errors_naming(file.name):
        _point("append", file.name)
        file.write(text)


@contextmanager
def errors_naming(path: Path | str) -> Iterator[None]:
    """Give the errors of the block the name of the file that it writes, where they have none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise


def check_writable(folder: Path) -> None:
    """Make a folder and write to it, so that what takes hours ends at once where that fails.

    Raises:
        InputError: it cannot be made, or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
    except OSError as error:
        raise write_error(str(folder), error) from error


def temporaries(folder: Path) -> list[Path]:
    """Return the temporary files in a folder: being written, or left by killed processes."""
    return sorted(folder.glob(f".*{TEMPORARY_SUFFIX}"))


def settle_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, if the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point(what: str, where: Path | str) -> None:
    """Come to a point of failure; where they are off, nothing outside of this file is called."""
    if faults.plan is not None:
        faults.point(what, where)
