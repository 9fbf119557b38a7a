"""Images that two collections share, found by the sha256 of their source files."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.shardset.manifest import DatasetInfo, read_manifest
from pipeline.storage.storage import Location

NUM_NAMED = 3

HashedImages = Iterator[tuple[str, str]]
"""Name and sha256 of the source file of every image of a collection."""


def hashed_shards(root: Location, info: DatasetInfo) -> HashedImages:
    """The images of a shard set, whose manifests hold the digests."""
    for shard in info.shards:
        table = read_manifest(root, shard.name, ["source", "sha256"])
        yield from zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True)


def hashed_files(root: Path, files: Sequence[str]) -> HashedImages:
    """Files below a folder; InputError for one that cannot be read."""
    for name in track(files, f"sha256 of {root.name}", len(files), "images"):
        try:
            data = (root / name).read_bytes()
        except OSError as error:
            raise InputError(f"{root / name} cannot be read: {error.strerror}") from error
        yield name, hashlib.sha256(data).hexdigest()


def shared_images(others: HashedImages, images: HashedImages) -> list[str]:
    """Names of those `images` whose source file is also one of `others`.

    Only `images` are held in memory.
    """
    named = list(images)
    known = {digest for _, digest in named}
    shared = {digest for _, digest in others if digest in known}
    return [name for name, digest in named if digest in shared]


def counted(names: Sequence[str]) -> str:
    """The number of images and the names of up to three, for a message."""
    more = ", ..." if len(names) > NUM_NAMED else ""
    images = "image" if len(names) == 1 else "images"
    return f"{len(names)} {images} ({', '.join(names[:NUM_NAMED])}{more})"
