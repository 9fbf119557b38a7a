"""A listing of images: a stream of rows, and the whole of it in arrow, with labels as numbers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.storage.store import Store

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
    """How to read `--data`: the options of `PrecomputeConfig` with these names."""

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
    """The stores that names of images and of masks are relative to; it can be pickled.

    `image_column` and `mask_column` are of parquet files that contain the images and the masks.
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
        rows = self.rows.select([name for name in self.rows.column_names if name != "label"])
        return replace(self, rows=rows, class_names=(), unlabelled_because=why)


def collect(listing: Listing, known_classes: Sequence[str] = ()) -> Collected:
    """Read a listing to its end; `known_classes` keep their numbers, others come after them."""
    numbers = {name: number for number, name in enumerate(known_classes)}
    tables: list[pa.Table] = []
    unlabelled: list[str] = []
    num_ignored = 0
    while some := list(islice(listing.rows, BATCH_ROWS)):
        rows = [row for row in some if row is not None]
        num_ignored += len(some) - len(rows)
        for row in rows:
            if row.get("label") is not None:
                row["label"] = numbers.setdefault(row["label"], len(numbers))
        first = min((row["source"] for row in rows if row.get("label") is None), default=None)
        unlabelled += [] if first is None else [first]
        table = pa.Table.from_pylist(rows, PLAN_SCHEMA)
        used = [name for name in table.column_names if table[name].null_count < len(rows)]
        tables.append(table.select(used))
    images = Collected(_joined(tables), (), "", num_ignored)
    if unlabelled or not numbers:
        why = f"{min(unlabelled)} {listing.unlabelled}" if listing.unlabelled else ""
        return images.without_labels(why)
    by_value = listing.counts_as_numbers and all(n.lstrip("-").isdecimal() for n in numbers)
    order: Callable[[str], int | str] = int if by_value else str
    names = (*known_classes, *sorted(numbers.keys() - set(known_classes), key=order))
    final = {name: number for number, name in enumerate(names)}
    renumbered = np.array([final[name] for name in numbers])[images.rows["label"].to_numpy()]
    index = images.rows.column_names.index("label")
    table = images.rows.set_column(index, PLAN_SCHEMA.field("label"), pa.array(renumbered))
    return replace(images, rows=table, class_names=names)


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk per column, of the columns that any of the tables has."""
    whole = pa.concat_tables(tables, promote_options="default")
    tables.clear()
    columns = {}
    for name in whole.column_names:  # one by one: two copies of all columns take too much memory
        columns[name] = whole[name].combine_chunks()
        whole = whole.drop_columns(name)
    return pa.table(columns)
