"""A listing of images: a stream of rows, and the whole of it in arrow, with labels as numbers."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.core.errors import InputError
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

LISTING_SCHEMA = PLAN_SCHEMA.append(pa.field("version", pa.int64()))
"""The version of the image's file (`Store.File`), or of the file that contains the image; null if
nothing tells whether it is as it was."""

Row = dict[str, Any]
"""The columns of an image that are not null, and `group`, if a column of groups was named."""
NUM_KINDS = 8
"""How many kinds of ignored files a message names."""


class Ignored(NamedTuple):
    """A file or a member that is no image."""

    kind: str
    """What it is counted as: its suffix, or why it is ignored."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read `--data`: the options of `PrecomputeConfig` with these names."""

    labels: bool = True
    image_column: str = ""
    label_column: str = ""
    mask_column: str = ""
    group_column: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, by option."""
        names = ("image_column", "label_column", "mask_column", "group_column")
        return {name: value for name in names if (value := getattr(self, name))}


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
        rows: of the images, with labels by name, and what is ignored.
        keeps_order: whether the rows' order matters, so that containers are read sequentially.
        counts_as_numbers: whether labels that are all numbers are sorted by value.
        unlabelled: the message after the source of an image without a label; empty: none.
        takes_all: whether the listing has every image below the store.
        takes: whether an image is in the part that is wanted; the classes are those of all parts.
    """

    data: DataStore
    rows: Iterator[Row | Ignored]
    keeps_order: bool = False
    counts_as_numbers: bool = False
    unlabelled: str = ""
    takes_all: bool = False
    takes: Callable[[Row], bool] = lambda _: True


@dataclass(frozen=True)
class Collected:
    """A whole listing.

    Attributes:
        rows: of LISTING_SCHEMA, one chunk per column, without the columns that are all null.
        class_names: empty if there are no labels.
        unlabelled_because: why there are no labels; empty if there are, or none were wanted.
        ignored: files that are not images, by their kind.
    """

    rows: pa.Table
    class_names: tuple[str, ...]
    unlabelled_because: str
    ignored: Mapping[str, int] = field(default_factory=dict)

    def spread(self, most: int) -> "Collected":
        """At most so many of the images, evenly spread over their names."""
        rows = self.rows.sort_by("source")
        chosen = np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows)).round().astype(int)
        return replace(self, rows=rows.take(pa.array(chosen)).combine_chunks())

    def without_labels(self, why: str) -> "Collected":
        """The same images, unlabelled."""
        rows = self.rows.select([name for name in self.rows.column_names if name != "label"])
        return replace(self, rows=rows, class_names=(), unlabelled_because=why)


def collect(listing: Listing, known_classes: Sequence[str] = ()) -> Collected:
    """Read a listing to its end; `known_classes` keep their numbers, others come after them."""
    numbers = {name: number for number, name in enumerate(known_classes)}
    tables: list[pa.Table] = []
    unlabelled: list[str] = []
    ignored: Counter[str] = Counter()
    while some := list(islice(listing.rows, BATCH_ROWS)):
        rows = [row for row in some if not isinstance(row, Ignored)]
        ignored.update(item.kind for item in some if isinstance(item, Ignored))
        for row in rows:
            label = row.get("label")
            if listing.counts_as_numbers and label is not None and label not in known_classes:
                row["label"] = label = label_text(label)
            if label is not None:
                row["label"] = numbers.setdefault(label, len(numbers))
        first = min((row["source"] for row in rows if row.get("label") is None), default=None)
        unlabelled += [] if first is None else [first]
        taken = [row for row in rows if listing.takes(row)]
        if len(taken) < len(rows):
            ignored["in the other part"] += len(rows) - len(taken)
        rows = taken
        table = pa.Table.from_pylist(rows, LISTING_SCHEMA)
        used = [name for name in table.column_names if table[name].null_count < len(rows)]
        tables.append(table.select(used))
    if not sum(table.num_rows for table in tables):
        raise InputError(f"no image is in this part: {describe_ignored(ignored)}")
    images = Collected(_joined(tables), (), "", ignored)
    if unlabelled or not numbers:
        why = f"{min(unlabelled)} {listing.unlabelled}" if listing.unlabelled else ""
        return images.without_labels(why)
    new = sorted(numbers.keys() - set(known_classes))
    values = {name: _number(name) for name in new} if listing.counts_as_numbers else {}
    if values and None not in values.values():
        new.sort(key=lambda name: values[name] or 0.0)
    names = (*known_classes, *new)
    final = {name: number for number, name in enumerate(names)}
    renumbered = np.array([final[name] for name in numbers])[images.rows["label"].to_numpy()]
    index = images.rows.column_names.index("label")
    table = images.rows.set_column(index, PLAN_SCHEMA.field("label"), pa.array(renumbered))
    return replace(images, rows=table, class_names=names)


def _number(label: str) -> float | None:
    """The value of a label that is a number, else None."""
    if not label.isascii() or "_" in label:  # float takes 1_0, and digits of other scripts
        return None
    try:
        return float(label)
    except ValueError:
        return None


def label_text(label: str) -> str | None:
    """A label as it is stored: 2 for 2.0, as pandas makes floats of integers; none for nan."""
    value = _number(label)
    if value is None:
        return label
    if math.isnan(value):
        return None
    is_whole = value.is_integer() and "." in label and abs(value) < 2**53
    return str(int(value)) if is_whole else label


def describe_ignored(ignored: Mapping[str, int]) -> str:
    """How many files are ignored, and of what kinds, the most frequent first."""
    total = sum(ignored.values())
    kinds = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count} {kind}" for kind, count in kinds[:NUM_KINDS]]
    if rest := sum(count for _, count in kinds[NUM_KINDS:]):
        named.append(f"{rest} of other kinds")
    files = "1 other file" if total == 1 else f"{total} other files"
    return f"{files} ignored" + (f" ({', '.join(named)})" if named else "")


def _joined(tables: list[pa.Table]) -> pa.Table:
    """One table of one chunk per column, of the columns that any of the tables has."""
    whole = pa.concat_tables(tables, promote_options="default")
    tables.clear()
    columns = {}
    for name in whole.column_names:  # one by one: two copies of all columns take too much memory
        columns[name] = whole[name].combine_chunks()
        whole = whole.drop_columns(name)
    return pa.table(columns)
