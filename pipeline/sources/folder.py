"""Image files below a folder or a prefix, at any depth."""

import os
import re
from collections import Counter
from collections.abc import Iterator

import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.image_names import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    has_image_signature,
    has_image_suffix,
    may_be_image,
)
from pipeline.sources.listing import DataPlace, Listing, RowBuffer
from pipeline.storage.storage import Store, printable

CONTAINER_SUFFIXES = (".tar", ".parquet", ".csv")


def list_files(store: Store, pattern: re.Pattern[str] | None, labels: bool) -> Listing:
    """List image files.

    An image is known by its suffix; a file without one, by its first bytes. The top-level folder
    that an image lies in is its class, if every image lies in one.

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


def _is_image(store: Store, name: str) -> bool:
    if not may_be_image(name):
        return has_image_suffix(name)
    return has_image_signature(store.read_range(name, 0, HEAD_BYTES))


def _batches(
    listing: Listing, store: Store, pattern: re.Pattern[str] | None, labels: bool
) -> Iterator[pa.RecordBatch]:
    rows = RowBuffer()
    containers: Counter[str] = Counter()
    found = False
    for name, num_bytes in store.files():
        if pattern is not None and not pattern.fullmatch(name):
            continue
        if num_bytes < 0 or not _is_image(store, name):
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
