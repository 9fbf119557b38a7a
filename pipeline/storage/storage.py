"""Where bytes lie: a local folder, or a prefix in an object store; files go by relative names.

What cannot be reached for a while is tried again for a bounded time, and then said in one line:
an outage is never taken for a missing file or for a bad image.
"""

import io
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TypeVar

from pipeline.core.errors import InputError

RETRY_SECONDS = 30.0
"""How long what fails for a reason that may pass is tried again, from the first failure on."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 4.0
REMOTE_STEP, LOCAL_STEP = 8 << 20, 1 << 17
"""Bytes that an open file reads at once."""
REMOTE_SCHEMES = ("s3", "gs")

Result = TypeVar("Result")


class StoreError(InputError):
    """A place cannot be read or written; the message names it, the reason and what was tried."""


class Store(ABC):
    """A place for files: pickles, and can be used from several threads.

    Names are relative, with forward slashes; bytes of local names that are not UTF-8 are
    surrogates, as in `os.fsdecode`. Every method but `size` raises `FileNotFoundError` where there
    is no such file, and `StoreError` where the place cannot be reached or used.
    """

    @property
    @abstractmethod
    def url(self) -> str:
        """The place as a person writes it, without options."""

    @property
    @abstractmethod
    def is_remote(self) -> bool:
        """Whether each request costs a round trip."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of a file."""

    @abstractmethod
    def read_range(self, name: str, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer where the file ends before."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """The bytes of a file; None where there is none."""

    @abstractmethod
    def files(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Names (relative to the store) and sizes of all files below a folder, in any order.

        The size of what is no regular file (a pipe, a device) is -1. No such folder: nothing.
        """

    def is_there(self) -> bool:
        """Whether the place exists: it holds a file, or is a local folder."""
        return next(self.names(), None) is not None

    @abstractmethod
    def new_file(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """A file to write that appears whole at `name` only if the block ends well."""

    @abstractmethod
    def settle(self) -> None:
        """After it, a power cut undoes nothing that was written before it."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, where it is there, and folders that hold nothing any more."""

    @abstractmethod
    def sweep(self) -> int:
        """Remove what killed processes left half-written; returns how many leftovers.

        Nobody else may be writing to the store meanwhile.
        """

    def names(self, prefix: str = "") -> Iterator[str]:
        """The names of all files below a folder, in any order."""
        return (name for name, _ in self.files(prefix))

    def write(self, name: str, data: bytes) -> None:
        """Write a file: all of it or nothing."""
        with self.new_file(name) as file:
            file.write(data)

    def where(self, name: str) -> str:
        """A file's place for messages."""
        return f"{self.url.rstrip('/')}/{printable(name)}" if name else self.url

    def open(self, name: str) -> IO[bytes]:
        """A file to read and seek in: buffered, in steps that suit the place.

        Raises:
            FileNotFoundError: no such file.
        """
        size = self.size(name)
        if size is None:
            raise FileNotFoundError(self.where(name))
        return io.BufferedReader(
            _StoreFile(self, name, size), (8 << 20) if self.is_remote else 1 << 17
        )


Location = str | Path
"""Where a person says that something lies: a local path, or a URL."""
Place = Store | Location
"""What functions take for a shard set or for data: a store, or what `open_store` makes one of."""


def open_store(place: Place) -> Store:
    """The store at a path or a URL; a store is returned as it is.

    Args:
        place: a local folder, `s3://bucket/prefix` or `gs://bucket/prefix`, with options of the
            connection after a question mark: see `pipeline.storage.object_store.OPTIONS`.

    Raises:
        InputError: a URL of another kind, or with unknown options.
    """
    if isinstance(place, Store):
        return place
    if not is_url(place):
        from pipeline.storage.local_store import LocalStore

        return LocalStore(Path(place))
    from pipeline.storage.object_store import open_object_store

    return open_object_store(str(place))


def is_url(place: str | Path) -> bool:
    """Whether this is a URL and no local path.

    Raises:
        InputError: a path that was a URL before `pathlib` took a slash off it.
    """
    text = str(place)
    for scheme in REMOTE_SCHEMES:
        if text.startswith(f"{scheme}:/") and not text.startswith(f"{scheme}://"):
            raise InputError(f"{text} is no place: write {scheme}://bucket/prefix")
    return "://" in text


def printable(name: str) -> str:
    """A name with what is not UTF-8 written as backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def retrying(
    what: str,
    attempt: Callable[[], Result],
    *,
    is_outage: Callable[[OSError], bool],
    seconds: float,
) -> Result:
    """Try until it succeeds, for a bounded time, with growing pauses.

    Args:
        what: names the thing and what cannot be done, for the message.
        attempt: may be called often.
        is_outage: whether an error may pass; others fail at once.
        seconds: how long after the first failure the last try begins.

    Raises:
        FileNotFoundError: as the attempt did.
        StoreError: the last failure, after `what`.
    """
    deadline: float | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            return attempt()
        except (FileNotFoundError, StoreError):
            raise
        except OSError as error:
            if not is_outage(error):
                raise StoreError(f"{what}: {reason(error)}") from error
            now = time.monotonic()
            deadline = now + seconds if deadline is None else deadline
            if now >= deadline:
                raise StoreError(
                    f"{what}: {reason(error)} (tried again for {seconds:.0f} s)"
                ) from error
            time.sleep(min(pause, deadline - now))
            pause = min(2 * pause, LONGEST_PAUSE)


def reason(error: OSError) -> str:
    """Why a system call or a request failed, on one line."""
    return " ".join((error.strerror or str(error)).split()) or type(error).__name__


class _StoreFile(io.RawIOBase):
    """A file of a store as Python's readers want it; each read is tried again by the store."""

    def __init__(self, store: Store, name: str, size: int) -> None:
        self._store, self._name, self._size = store, name, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._size - self._position))
        data = self._store.read_range(self._name, self._position, length) if length else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
