"""Image files below a folder or a prefix, at any depth, known by their suffix."""

import os
import re
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.listing import DataPlace, Listing, RowBuffer
from pipeline.storage import Store, printable

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
    ]
)
CONTAINER_SUFFIXES = (".tar", ".parquet", ".csv")


def list_files(store: Store, pattern: re.Pattern[str] | None, labels: bool) -> Listing:
    """List image files.

    The top-level folder that an image lies in is its class, if every image lies in one.

    Args:
        store: the folder.
        pattern: what names have to match; None for all.
        labels: whether class folders become labels.

    Raises:
        InputError: no image there, or something in it cannot be listed; while batches are read.
    """
    listing = Listing(
        place=DataPlace(store=store),
        batches=iter(()),
        unlabelled="lies in no class folder" if labels else "",
        takes_all=pattern is None,
    )
    listing.batches = _batches(listing, store, pattern, labels)
    return listing


def is_image_name(name: str) -> bool:
    """Whether a file is an image, by its name."""
    # ._x.jpg is what macOS keeps beside x.jpg on foreign disks; it is no picture
    if os.path.splitext(name)[1].lower() not in IMAGE_SUFFIXES:
        return False
    return not name.rpartition("/")[2].startswith("._")


def _batches(
    listing: Listing, store: Store, pattern: re.Pattern[str] | None, labels: bool
) -> Iterator[pa.RecordBatch]:
    rows = RowBuffer()
    containers: Counter[str] = Counter()
    found = False
    for name, num_bytes in store.files():
        if pattern is not None and not pattern.fullmatch(name):
            continue
        if num_bytes < 0 or not is_image_name(name):
            listing.num_ignored += 1
            suffix = os.path.splitext(name)[1].lower()
            containers[suffix] += suffix in CONTAINER_SUFFIXES
            continue
        found = True
        source = printable(name)
        uri = None if source == name else os.fsencode(name)
        top, slash, _ = source.partition("/")
        rows.add(source, num_bytes, uri=uri, label=top if labels and slash else None)
        if rows.is_full:
            yield rows.take()
    if not found:
        raise _nothing_found(store, pattern, listing.num_ignored, containers)
    yield rows.take()


def _nothing_found(
    store: Store, pattern: re.Pattern[str] | None, num_ignored: int, containers: Counter[str]
) -> InputError:
    hint = ""
    for suffix, count in containers.most_common(1):
        if count:
            hint = f"; {count} of them are {suffix} files: {store.url}/*{suffix} takes these"
    matching = " that match" if pattern is not None else ""
    return InputError(
        f"no image below {store.url} ({num_ignored} other files{matching}{hint}): images are "
        f"known by their suffix ({', '.join(sorted(IMAGE_SUFFIXES))})"
    )
