"""Files that are whole when they exist: written under a temporary name, flushed, renamed."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_file(path: Path, *, settle: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name when the block ends well.

    The folder is made where it is missing. On an error the temporary is removed and whatever
    stood at `path` stays as it was.

    Args:
        path: of the file.
        settle: whether the name itself survives a power cut at once (else see `settle_folder`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise
    if settle:
        settle_folder(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`: all of it or nothing."""
    with atomic_file(path) as file:
        file.write(data)


def temporaries(folder: Path) -> list[Path]:
    """The files in `folder` that are being written, or were when their process died."""
    return sorted(folder.glob(f".*{TEMPORARY_SUFFIX}"))


def sweep_temporaries(folder: Path) -> int:
    """Remove what a killed process left half-written in `folder`; returns how many files."""
    count = 0
    for orphan in temporaries(folder):
        with suppress(FileNotFoundError):
            orphan.unlink()
            count += 1
    return count


def settle_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
