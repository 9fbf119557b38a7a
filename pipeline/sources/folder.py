"""List image files below a folder or a prefix, at any depth."""

import os
import re
from collections import Counter
from collections.abc import Iterator

from pipeline.core.errors import InputError
from pipeline.core.image_names import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    has_image_signature,
    has_image_suffix,
    may_be_image,
)
from pipeline.sources.listing import DataStore, Listing, Row
from pipeline.storage.base import Store, printable

CONTAINER_SUFFIXES = (".tar", ".parquet", ".csv")


def list_files(store: Store, pattern: re.Pattern[str] | None, labels: bool) -> Listing:
    """List the image files in a store whose names match the pattern, if there is one.

    An image is known by its suffix; a file without one, by its first bytes. The top-level folder
    of an image is its class, if labels are wanted and every image is in one.
    """
    return Listing(
        data=DataStore(store=store),
        rows=_rows(store, pattern, labels),
        unlabelled="lies in no class folder" if labels else "",
        takes_all=pattern is None,
    )


def _rows(store: Store, pattern: re.Pattern[str] | None, labels: bool) -> Iterator[Row | None]:
    ignored: Counter[str] = Counter()
    found = False
    for name, num_bytes in store.files():
        if pattern is not None and not pattern.fullmatch(name):
            continue
        if num_bytes < 0 or not _is_image(store, name):
            ignored[os.path.splitext(name)[1].lower()] += 1
            yield None
            continue
        found = True
        source = printable(name)
        row: Row = {"source": source, "num_bytes": num_bytes}
        if source != name:
            row["uri"] = os.fsencode(name)
        top, slash, _ = source.partition("/")
        if labels and slash:
            row["label"] = top
        yield row
    if not found:
        raise _nothing_found(store, pattern is not None, ignored)


def _is_image(store: Store, name: str) -> bool:
    if not may_be_image(name):
        return has_image_suffix(name)
    return has_image_signature(store.read_range(name, 0, HEAD_BYTES))


def _nothing_found(store: Store, has_pattern: bool, ignored: Counter[str]) -> InputError:
    suffix = max(CONTAINER_SUFFIXES, key=lambda suffix: ignored[suffix])
    hint = f"; {ignored[suffix]} of them are {suffix} files: {store.url}/*{suffix} takes these"
    return InputError(
        f"no image below {store.url} ({ignored.total()} other files"
        f"{' that match' if has_pattern else ''}{hint if ignored[suffix] else ''}): images are "
        f"known by their suffix ({', '.join(sorted(IMAGE_SUFFIXES))})"
    )
