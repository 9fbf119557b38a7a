"""List image files below a folder or a prefix, at any depth."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from pipeline.core.errors import InputError
from pipeline.core.image_names import HEAD_BYTES, IMAGE_SUFFIXES, is_image, kind_of
from pipeline.sources.listing import DataStore, Ignored, Listing, Row, describe_ignored
from pipeline.storage.store import Store, printable

Matches = Callable[[str], object]
CONTAINER_SUFFIXES = (".tar", ".parquet", ".csv")
ARRAY_SUFFIX = ".npy"


def list_files(store: Store, matches: Matches | None, labels: bool) -> Listing:
    """List the image files in a store; with `matches`, those whose names it is true of.

    An image is known by its suffix; a file of an unknown suffix or without one, by its first bytes.
    Hidden files and folders, and those of tools (`image_names.TOOL_FOLDERS`), are ignored. Arrays
    (.npy) are images where there are no other ones. The top-level folder of an image is its class,
    if labels are wanted and every image is in one.
    """
    return Listing(
        data=DataStore(store=store),
        rows=_rows(store, matches, labels),
        unlabelled="lies in no class folder" if labels else "",
        takes_file=matches or bool,
    )


def _rows(store: Store, matches: Matches | None, labels: bool) -> Iterator[Row | Ignored]:
    ignored: Counter[str] = Counter()
    arrays: list[Row] = []
    found = False
    for name, num_bytes, version in store.files():
        if matches is not None and not matches(name):
            continue
        kind = kind_of(name) if num_bytes >= 0 else "pipes and devices"
        is_array = kind == ARRAY_SUFFIX
        if not is_array and (
            num_bytes < 0 or not is_image(name, partial(store.read, name, 0, HEAD_BYTES))
        ):
            ignored[kind] += 1
            yield Ignored(kind)
            continue
        source = printable(name)
        row: Row = {"source": source, "num_bytes": num_bytes, "version": version}
        if source != name:
            row["uri"] = os.fsencode(name)
        top, slash, _ = source.partition("/")
        if labels and slash:
            row["label"] = top
        if is_array:
            arrays.append(row)
            continue
        found = True
        yield row
    yield from (Ignored(ARRAY_SUFFIX) for _ in arrays) if found else arrays
    if not found and not arrays:
        raise _nothing_found(store, matches is not None, ignored)


def _nothing_found(store: Store, has_pattern: bool, ignored: Counter[str]) -> InputError:
    # Tars first: beside img2dataset's tars lie tables of addresses, which hold no image.
    suffix = next((suffix for suffix in CONTAINER_SUFFIXES if ignored[suffix]), None)
    hint = f": {store.url}/*{suffix} takes the {suffix} files" if suffix else ""
    return InputError(
        f"no image below {store.url} ({describe_ignored(ignored)}"
        f"{'; only names that match count' if has_pattern else ''}){hint}: images are "
        f"known by their suffix ({', '.join(sorted(IMAGE_SUFFIXES))}) or first bytes"
    )
