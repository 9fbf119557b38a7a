"""A file of a store, as it is listed, and what tells whether it has changed."""

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
