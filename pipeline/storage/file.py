"""A file of a store: as it is listed, what tells whether it has changed, and as it is read."""

import errno
import io
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple


class File(NamedTuple):
    """A file of a store, as it is listed."""

    name: str
    """Relative to the store."""
    num_bytes: int
    """-1 for a pipe or a device."""
    version: int
    """Another number whenever the file may have changed, or is another file; 0: nothing tells."""


def version_of(text: str) -> int:
    """A number, other than 0, that stands for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) | 1


class RangeFile(io.RawIOBase):
    """A readable, seekable file of ranges of bytes: `read(offset, length)`, which may retry."""

    def __init__(self, read: Callable[[int, int], bytes], where: str, size: int) -> None:
        self._read, self._where, self._size = read, where, size
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file; OSError before its first byte."""
        position = offset + (0, self._position, self._size)[whence]
        if position < 0:
            raise OSError(errno.EINVAL, f"{self._where} has no byte {position}")
        self._position = position
        return position

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fill a buffer as far as there are bytes."""
        length = max(0, min(len(buffer), self._size - self._position))
        data = self._read(self._position, length) if length else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
