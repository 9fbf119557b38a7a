"""A local folder as a store."""

# ruff: noqa: D102  (`Store` documents these methods)

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from pipeline.storage.atomic import atomic_file, settle_folder, temporaries
from pipeline.storage.base import RETRY_SECONDS, Store, StoreError, printable, reason, retrying

Result = TypeVar("Result")


@dataclass(frozen=True)
class LocalStore(Store):
    """Files below a folder.

    It does not use obstore's local store, which neither flushes files to the disk nor reads
    names that are not UTF-8 or end in `#` and a number (object_store 0.13).

    Attributes:
        root: the folder; created with the first file.
        retry_seconds: how long failed reads are retried.
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

    def read(self, name: str) -> bytes:
        return self._retrying(name, lambda: self.path(name).read_bytes())

    def read_range(self, name: str, offset: int, length: int) -> bytes:
        def attempt() -> bytes:
            with self.path(name).open("rb") as file:
                return os.pread(file.fileno(), length, offset)

        return self._retrying(name, attempt)

    def size(self, name: str) -> int | None:
        try:
            about = self._retrying(name, lambda: self.path(name).stat())
        except FileNotFoundError:
            return None
        return about.st_size if stat.S_ISREG(about.st_mode) else None

    def files(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Symbolic links are followed.

        A folder that is reachable through several links is listed once: by its own path if that
        is below the root, else by the first link in order of names.
        """
        root = os.path.join(os.fsencode(self.root), b"")
        start = os.path.join(root, os.fsencode(prefix.strip("/")))
        links = [start] if os.path.isdir(start) else []
        listed: set[tuple[int, int]] = set()
        while links:
            links.sort(reverse=True)
            for folder, folders, names in os.walk(links.pop(), onerror=_cannot_list):
                about = _stat(folder)
                if (about.st_dev, about.st_ino) in listed:
                    folders.clear()
                    continue
                listed.add((about.st_dev, about.st_ino))
                paths = [os.path.join(folder, name) for name in folders]
                links += filter(os.path.islink, paths)  # `os.walk` does not enter them
                for name in names:
                    path = os.path.join(folder, name)
                    about = _stat(path)
                    size = about.st_size if stat.S_ISREG(about.st_mode) else -1
                    yield os.fsdecode(path[len(root) :]), size

    def is_there(self) -> bool:
        return self.root.is_dir()

    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return atomic_file(self.path(name), settle=False)

    def remove(self, name: str) -> None:
        path = self.path(name)
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
            path.unlink(missing_ok=True)
        return len(orphans)

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            return []
        return [self.root, *(path for path in self.root.iterdir() if path.is_dir())]

    def _retrying(self, name: str, attempt: Callable[[], Result]) -> Result:
        return retrying(f"{self.where(name)} cannot be read", attempt, self.retry_seconds)


def _cannot_list(error: OSError) -> None:
    name = printable(os.fsdecode(error.filename))
    raise StoreError(f"cannot list {name}: {reason(error)}") from error


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        name = printable(os.fsdecode(path))
        raise StoreError(
            f"cannot read {name}: {reason(error)} (if it is a broken link, remove it)"
        ) from error
