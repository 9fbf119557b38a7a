"""Images that two collections share, found by the sha256 of their source files."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.shardset.manifest import DatasetInfo, read_manifest
from pipeline.storage.storage import Location

NUM_NAMED = 3


class HashedImages(Protocol):
    """A collection that can tell the digests of its images."""

    def digests(self) -> Iterator[list[str]]:
        """sha256 of every image's source file, part by part."""

    def names(self) -> Iterator[list[str]]:
        """Names of the source files, in the same order and parts."""


@dataclass(frozen=True)
class HashedShards:
    """A shard set, whose manifests hold the digests. Only the columns asked for are read."""

    root: Location
    info: DatasetInfo

    def digests(self) -> Iterator[list[str]]:
        """One part per shard."""
        return self._column("sha256")

    def names(self) -> Iterator[list[str]]:
        """One part per shard."""
        return self._column("source")

    def _column(self, name: str) -> Iterator[list[str]]:
        for shard in self.info.shards:
            yield read_manifest(self.root, shard.name, [name])[name].to_pylist()


@dataclass(frozen=True)
class HashedFiles:
    """Files below a folder. Each is read once for each call of `digests`."""

    root: Path
    files: Sequence[str]

    def digests(self) -> Iterator[list[str]]:
        """One part per file; raises InputError for one that cannot be read."""
        title = f"sha256 of {self.root.name}"
        for name in track(self.files, title, len(self.files), "images"):
            try:
                data = (self.root / name).read_bytes()
            except OSError as error:
                raise InputError(f"{self.root / name} cannot be read: {error.strerror}") from error
            yield [hashlib.sha256(data).hexdigest()]

    def names(self) -> Iterator[list[str]]:
        """One part per file."""
        return ([name] for name in self.files)


def shared_images(others: HashedImages, images: HashedImages) -> list[str]:
    """Names of those of `images` whose source file is also one of `others`.

    Holds the digests of `images` in memory, those of `others` part by part.
    """
    known = {digest for part in images.digests() for digest in part}
    shared: set[str] = set()
    for part in others.digests():
        shared.update(known.intersection(part))
    if not shared:
        return []
    parts = zip(images.digests(), images.names(), strict=True)
    return [
        name
        for digests, names in parts
        for digest, name in zip(digests, names, strict=True)
        if digest in shared
    ]


def counted(names: Sequence[str]) -> str:
    """How many images, with the names of up to three, for a message."""
    more = ", ..." if len(names) > NUM_NAMED else ""
    images = "image" if len(names) == 1 else "images"
    return f"{len(names)} {images} ({', '.join(names[:NUM_NAMED])}{more})"
