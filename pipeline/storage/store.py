"""Files by name: the interface of a store, its retries, and the store of a local folder.

A failure that may be temporary is retried for a limited time and then reported in one line. An
outage is never mistaken for a missing file or a bad image.
"""

import errno
import io
import os
import shutil
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, ClassVar, TypeVar

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.core.faults import point
from pipeline.storage.alone import alone_in
from pipeline.storage.atomic import atomic_file, settle_folder, temporaries
from pipeline.storage.file import File, RangeFile, version_of

RETRY_SECONDS = 30.0
"""How long a temporary failure is retried, counted from the first failure."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
REMOTE_STEP, LOCAL_STEP = 8 << 20, 1 << 17
"""Bytes that an open file reads at once."""
TEMPORARY_ERRORS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EREMOTEIO, errno.ESTALE),
    *(errno.ETIMEDOUT, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH),
    *(errno.EHOSTDOWN, errno.EHOSTUNREACH),
}
"""Errors of disks and network mounts that may pass, besides every `ConnectionError`."""

Result = TypeVar("Result")


class StoreError(InputError):
    """A store refuses a request; the message names the file and the reason."""


class Store(ABC):
    """Files by name. A store can be pickled and used from several threads.

    Names are relative and use forward slashes. Bytes of local names that are not UTF-8 are
    surrogates, as in `os.fsdecode`. Methods raise `FileNotFoundError` if the file does not exist
    (`size` returns None), `StoreError` if the store refuses, and `StoreUnavailable` if it does not
    answer.
    """

    is_remote: ClassVar[bool] = False
    """Whether every request is a round trip over the network."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The folder or URL, without options."""

    @abstractmethod
    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Return a file's bytes from `offset` on: `length`, or fewer at its end; None: all."""

    @abstractmethod
    def find(self, name: str) -> File | None:
        """Look a file up; None if it does not exist, or is a folder, a pipe or a device."""

    @abstractmethod
    def files(self, prefix: str = "") -> Iterator[File]:
        """Yield all files below a folder, in any order.

        A folder that does not exist yields nothing.
        """

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Open a file for writing. It appears at `name`, complete, only if the block succeeds."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file if it exists, and the folders that are empty afterwards."""

    def alone(self) -> AbstractContextManager[None]:
        """While the block runs no other process here may write; a bucket has no such lock."""
        return nullcontext()

    def settle(self) -> None:  # noqa: B027  (files in a bucket are safe as soon as they exist)
        """Make everything written so far survive a power cut."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed processes left half-written; return how many leftovers.

        No other process may write to the store at the same time.
        """

    def is_there(self) -> bool:
        """Whether the store exists: it is a local folder, or holds at least one file."""
        return next(self.names(), None) is not None

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""
        file = self.find(name)
        return None if file is None else file.num_bytes

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the names of all files below a folder, in any order."""
        return (file.name for file in self.files(prefix))

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file, or nothing."""
        with self.new_file(name) as file:
            file.write(data)

    def upload(self, name: str, path: Path) -> None:
        """Write a whole file, or nothing, with the bytes of a local one."""
        with self.new_file(name) as file, path.open("rb") as local:
            shutil.copyfileobj(local, file)

    def where(self, name: str) -> str:
        """Return the full path or URL of a file, for messages."""
        shown = "".join(one if one.isprintable() else repr(one)[1:-1] for one in printable(name))
        return f"{self.url.rstrip('/')}/{shown}" if name else self.url

    def open(self, name: str) -> io.BufferedReader:
        """Open a file for buffered reading and seeking."""
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self.where(name))
        step = REMOTE_STEP if self.is_remote else LOCAL_STEP
        return io.BufferedReader(RangeFile(partial(self.read, name), self.where(name), size), step)


@dataclass(frozen=True)
class LocalStore(Store):
    """Files below a folder, which is created with the first file.

    It does not use obstore's local store, which neither flushes files to the disk nor reads
    names that are not UTF-8 or end in `#` and a number (object_store 0.13).
    """

    root: Path
    retry_seconds: float = RETRY_SECONDS

    @property
    def url(self) -> str:
        """The folder."""
        return printable(str(self.root))

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.root / name

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:  # noqa: D102
        def attempt() -> bytes:
            with self.path(name).open("rb") as file:
                file.seek(offset)
                return file.read(length)

        return retrying(f"{self.where(name)} cannot be read", attempt, self.retry_seconds)

    def find(self, name: str) -> File | None:  # noqa: D102
        if "\0" in name:  # of a list: no file has such a name
            return None
        what = f"{self.where(name)} cannot be read"
        try:
            about = retrying(what, lambda: self.path(name).stat(), self.retry_seconds)
        except FileNotFoundError:
            return None
        return self._file(name, about) if stat.S_ISREG(about.st_mode) else None

    def _file(self, name: str, about: os.stat_result) -> File:
        """The version is of the path, too: a copy of a folder is not the folder that was listed."""
        if not stat.S_ISREG(about.st_mode):
            return File(name, -1, 0)
        when = f"{about.st_mtime_ns} {about.st_ctime_ns}"
        return File(name, about.st_size, version_of(f"{self.where(name)} {when}"))

    def files(self, prefix: str = "") -> Iterator[File]:
        """Symbolic links are followed.

        A folder that is reachable through several links is listed once: by its own path if that
        is below the root, else by the first link in order of names.
        """
        root = os.path.join(os.fsencode(self.root), b"")
        start = os.path.join(root, os.fsencode(prefix.strip("/")))
        folders, links = [start] if os.path.isdir(start) else [], list[bytes]()
        listed: set[tuple[int, int]] = set()
        while folders or links:
            if not folders:
                links.sort(reverse=True)
            folder = (folders or links).pop()
            try:
                about = os.stat(folder)
                if (about.st_dev, about.st_ino) in listed:
                    continue
                listed.add((about.st_dev, about.st_ino))
                with os.scandir(folder) as entries:
                    for entry in entries:
                        about = entry.stat()
                        if stat.S_ISDIR(about.st_mode):
                            found = links if entry.is_symlink() else folders
                            found.append(entry.path)
                        else:
                            yield self._file(os.fsdecode(entry.path[len(root) :]), about)
            except OSError as error:
                path = printable(os.fsdecode(error.filename or folder))
                hint = " (if it is a broken link, remove it)"
                raise StoreError(
                    f"cannot list {path}: {reason(error)}"
                    f"{hint if isinstance(error, FileNotFoundError) else ''}"
                ) from error

    def is_there(self) -> bool:  # noqa: D102
        return self.root.is_dir()

    def alone(self) -> AbstractContextManager[None]:  # noqa: D102
        return alone_in(self.root)

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:  # noqa: D102
        return atomic_file(self.path(name), settle=False)

    def remove(self, name: str) -> None:  # noqa: D102
        path = self.path(name)
        point("remove", name)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, missing, or not removable
            for folder in path.parents:
                if folder.is_relative_to(self.root):
                    folder.rmdir()

    def settle(self) -> None:
        """Covers the folder and its direct subfolders."""
        for folder in self._folders():
            settle_folder(folder)

    def sweep(self) -> int:
        """Covers the folder and its direct subfolders."""
        orphans = [path for folder in self._folders() for path in temporaries(folder)]
        for path in orphans:
            point("remove", path)
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return len(orphans)

    def _folders(self) -> list[Path]:
        return [self.root, *self.root.glob("*/")] if self.root.is_dir() else []


def printable(name: str) -> str:
    """Return a name in which bytes that are not UTF-8 are backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def reason(error: Exception) -> str:
    """Return the reason of a failure on one line."""
    words = getattr(error, "strerror", None) or str(error)
    return " ".join(words.split()) or type(error).__name__


def retrying(what: str, attempt: Callable[[], Result], seconds: float) -> Result:
    """Call `attempt` until it succeeds, with growing pauses, while its errors may be temporary.

    The last attempt is `seconds` after the first failure. Raises `FileNotFoundError` from the
    attempt, `StoreUnavailable` after the last one, and `StoreError` for other failures; their
    messages begin with `what`.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            return attempt()
        except FileNotFoundError:
            raise
        except OSError as error:
            if not isinstance(error, ConnectionError) and error.errno not in TEMPORARY_ERRORS:
                raise StoreError(f"{what}: {reason(error)}") from error
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise StoreUnavailable(
                    f"{what}: {reason(error)} (tried again for {seconds:.0f} s)"
                ) from error
            time.sleep(min(pause, deadline - now))
            pause = min(2 * pause, LONGEST_PAUSE)
