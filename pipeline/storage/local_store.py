"""A local folder as a store: temporaries beside their files, renamed when they are whole."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pipeline.storage.atomic import atomic_file, settle_folder, sweep_temporaries
from pipeline.storage.storage import RETRY_SECONDS, Store, StoreError, printable, reason, retrying

PASSING_ERRORS = frozenset(
    [
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EIO,
        errno.EREMOTEIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOTCONN,
    ]
)
"""What a disk or a network mount says in bad moments."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalStore(Store):
    """Files below a folder.

    Attributes:
        root: the folder; made by the first file that is written.
        retry_seconds: how long reads that fail are tried again.
    """

    root: Path
    retry_seconds: float = RETRY_SECONDS

    @property
    def url(self) -> str:
        """The folder."""
        return printable(str(self.root))

    @property
    def is_remote(self) -> bool:
        """Never."""
        return False

    def path(self, name: str) -> Path:
        """Where a file lies."""
        return self.root / name

    def read(self, name: str) -> bytes:
        """See `Store`."""
        return self._retrying(name, lambda: self.path(name).read_bytes())

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """See `Store`."""

        def attempt() -> bytes:
            with self.path(name).open("rb") as file:
                return os.pread(file.fileno(), length, offset)

        return self._retrying(name, attempt)

    def size(self, name: str) -> int | None:
        """See `Store`."""
        try:
            about = self._retrying(name, lambda: self.path(name).stat())
        except FileNotFoundError:
            return None
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    def files(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """See `Store`. Links are followed.

        A folder that links make reachable in several ways is read once: by its own path, if that
        is below the root, else by the first link in order of names.
        """
        if not os.path.isdir(os.path.join(self.root, prefix)):
            return
        seen: set[tuple[int, int]] = set()
        folders, links = [os.fsencode(prefix.strip("/"))], list[bytes]()
        root = os.fsencode(self.root)
        while folders or links:
            if not folders:  # linked folders last, so that a folder's own path comes first
                links.sort(reverse=True)
                folders.append(links.pop())
            folder = folders.pop()
            identity = _stat(os.path.join(root, folder))
            if (identity.st_dev, identity.st_ino) in seen:
                continue
            seen.add((identity.st_dev, identity.st_ino))
            for entry in _entries(os.path.join(root, folder)):
                path = os.path.join(folder, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif entry.is_dir():
                    links.append(path)
                else:
                    about = _stat(entry.path)
                    # a pipe or a device would block for ever
                    yield os.fsdecode(path), about.st_size if stat.S_ISREG(about.st_mode) else -1

    def is_there(self) -> bool:
        """See `Store`."""
        return self.root.is_dir()

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """See `Store`."""
        return atomic_file(self.path(name), settle=False)

    def settle(self) -> None:
        """See `Store`. Looks into the folder and the folders in it."""
        for folder in self._folders():
            settle_folder(folder)

    def remove(self, name: str) -> None:
        """See `Store`."""
        path = self.path(name)
        path.unlink(missing_ok=True)
        folders = [folder for folder in path.parents if folder.is_relative_to(self.root)]
        with suppress(OSError):  # not empty, not there, or not ours to remove
            for folder in folders:
                folder.rmdir()

    def sweep(self) -> int:
        """See `Store`. Looks into the folder and the folders in it."""
        return sum(sweep_temporaries(folder) for folder in self._folders())

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [self.root, *(path for path in self.root.iterdir() if path.is_dir())]

    def _retrying(self, name: str, attempt: Callable[[], Result]) -> Result:
        return retrying(
            f"{self.where(name)} cannot be read",
            attempt,
            is_outage=lambda error: error.errno in PASSING_ERRORS,
            seconds=self.retry_seconds,
        )


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        name = printable(os.fsdecode(folder))
        raise StoreError(f"cannot list {name}: {reason(error)}") from error


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        name = printable(os.fsdecode(path))
        raise StoreError(
            f"cannot read {name}: {reason(error)} (a link to nowhere? remove it)"
        ) from error
