"""A listing of images: a stream of rows, and the whole of it in arrow, with labels as numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.storage.base import Store

BATCH_ROWS = 1 << 16

PLAN_SCHEMA = pa.schema(
    [
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("uri", pa.large_binary()),
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("num_bytes", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("mask", pa.large_binary()),
        pa.field("mask_offset", pa.int64()),
        pa.field("mask_bytes", pa.int64()),
    ]
)
"""One row per image.

source: the name of the image, from which its key is made: relative to the data's root, or a URL,
    never an absolute local path. Bytes of a file name that are not UTF-8 are backslash escapes.
uri: the name of its file in the data's store, or a URL; null if that is `source`.
offset, length: with both, a span of the file (a tar's member); with offset alone, a row of a
    parquet file.
num_bytes: size of the image; -1 if it is unknown.
label: index of its class; the name of its class in a `Row`.
mask: the name of its mask in the store of masks, or a URL.
mask_offset: like `offset`, if the mask is in the same file as the image.
mask_bytes: size of the mask; -1 or null if it is unknown.
"""

Row = dict[str, Any]
"""The columns of an image that are not null."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read `--data`.

    Attributes:
        labels: whether labels are wanted.
        image_column: column of a table, or suffix of a tar's members; empty: found by its name.
        label_column: column of a table, suffix of a tar's members or field of its JSON members;
            empty: `label` or `cls` if there is one.
        mask_column: column of a table, or suffix of a tar's members; empty: no masks in it.
    """

    labels: bool = True
    image_column: str = ""
    label_column: str = ""
    mask_column: str = ""

    @property
    def columns(self) -> list[str]:
        """The columns that are named."""
        return [name for name in (self.image_column, self.label_column, self.mask_column) if name]


@dataclass(frozen=True, kw_only=True)
class DataStore:
    """How to read the images of a listing. It can be pickled.

    Attributes:
        store: names of images are relative to it.
        masks: names of masks are relative to it.
        image_column: of parquet files that contain the images.
        mask_column: of parquet files that contain the masks.
    """

    store: Store
    masks: Store | None = None
    image_column: str = ""
    mask_column: str = ""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A stream of rows, which can be read once.

    Attributes:
        data: how to read the images.
        rows: of the images, with labels by name; None for each file that is not an image.
        keeps_order: whether the rows' order matters, so that containers are read sequentially.
        counts_as_numbers: whether labels that are all integers are sorted by value.
        unlabelled: the message after the source of an image without a label; empty: none.
        takes_all: whether the listing has every image below the store.
    """

    data: DataStore
    rows: Iterator[Row | None]
    keeps_order: bool = False
    counts_as_numbers: bool = False
    unlabelled: str = ""
    takes_all: bool = False


@dataclass(frozen=True)
class Collected:
    """A whole listing.

    Attributes:
        rows: of PLAN_SCHEMA, one chunk per column, without the columns that are all null.
        class_names: empty if there are no labels.
        unlabelled_because: why there are no labels; empty if there are, or none were wanted.
        num_ignored: files that are not images.
    """

    rows: pa.Table
    class_names: tuple[str, ...]
    unlabelled_because: str
    num_ignored: int = 0

    def without_labels(self, why: str) -> "Collected":
        """The same images, unlabelled."""
        rows = self.rows
        rows = rows.drop_columns(["label"]) if "label" in rows.column_names else rows
        return replace(self, rows=rows, class_names=(), unlabelled_because=why)


def collect(listing: Listing, known_classes: Sequence[str] = ()) -> Collected:
    """Read a listing to its end; `known_classes` keep their numbers, others come after them."""
    numbers = {name: number for number, name in enumerate(known_classes)}
    parts: dict[str, list[pa.Array]] = {column.name: [] for column in PLAN_SCHEMA}
    first_unlabelled: str | None = None
    num_ignored = 0
    while some := list(islice(listing.rows, BATCH_ROWS)):
        rows = [row for row in some if row is not None]
        num_ignored += len(some) - len(rows)
        for row in rows:
            if row.get("label") is not None:
                row["label"] = numbers.setdefault(row["label"], len(numbers))
            elif first_unlabelled is None or row["source"] < first_unlabelled:
                first_unlabelled = row["source"]
        for column in PLAN_SCHEMA:
            values = pa.array([row.get(column.name) for row in rows], column.type)
            is_empty = values.null_count == len(values)
            parts[column.name].append(pa.nulls(len(values)) if is_empty else values)
    columns = {}
    for column in PLAN_SCHEMA:  # one by one: both forms of all columns at once take too much memory
        arrays = parts.pop(column.name)
        if any(array.type == column.type for array in arrays):
            columns[column.name] = pa.concat_arrays([a.cast(column.type) for a in arrays])
    images = Collected(pa.table(columns), (), "", num_ignored)
    if first_unlabelled is not None or not numbers:
        why = f"{first_unlabelled} {listing.unlabelled}" if listing.unlabelled else ""
        return images.without_labels(why)
    by_value = listing.counts_as_numbers and all(n.lstrip("-").isdecimal() for n in numbers)
    order: Callable[[str], int | str] = int if by_value else str
    new = sorted(numbers.keys() - set(known_classes), key=order)
    names = (*known_classes, *new)
    final = {name: number for number, name in enumerate(names)}
    renumbered = np.array([final[name] for name in numbers])[images.rows["label"].to_numpy()]
    index = images.rows.column_names.index("label")
    table = images.rows.set_column(index, PLAN_SCHEMA.field("label"), pa.array(renumbered))
    return replace(images, rows=table, class_names=names)
