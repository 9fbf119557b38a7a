"""A listing of images: a stream of rows, and the whole of it in arrow, with labels as numbers."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.sources.rows import Rows, hashed, in_runs, joined, merged
from pipeline.storage.store import Store

BATCH_ROWS = 1 << 12

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
        takes_file: whether an image of that name in the store would be listed; None: only what a
            list or an archive names is.
        takes: whether an image is in the part that is wanted; None: all are. The classes are those
            of all parts.
    """

    data: DataStore
    rows: Iterator[Row | Ignored]
    keeps_order: bool = False
    counts_as_numbers: bool = False
    unlabelled: str = ""
    takes_file: Callable[[str], object] | None = None
    takes: Callable[[Row], bool] | None = None


@dataclass(frozen=True)
class Collected:
    """A whole listing.

    Attributes:
        rows: of LISTING_SCHEMA without columns that are all null, in the order of the plan.
        class_names: empty if there are no labels.
        unlabelled_because: why there are no labels; empty if there are, or none were wanted.
        ignored: files that are not images, by their kind.
    """

    rows: Rows
    class_names: tuple[str, ...]
    unlabelled_because: str
    ignored: Mapping[str, int] = field(default_factory=dict)

    def spread(self, most: int) -> "Collected":
        """At most so many of the images, evenly spread over their names."""
        rows = joined(self.rows)
        by_name = pc.sort_indices(rows["source"]).to_numpy()
        chosen = np.linspace(0, rows.num_rows - 1, min(most, rows.num_rows)).round().astype(int)
        return replace(self, rows=Rows([rows.take(pa.array(np.sort(by_name[chosen])))]))

    def without_labels(self, why: str) -> "Collected":
        """The same images, unlabelled."""
        rows = Rows(_labelled(part, None) for part in self.rows)
        return replace(self, rows=rows, class_names=(), unlabelled_because=why)


def collect(listing: Listing, known_classes: Sequence[str] = ()) -> Collected:
    """Read a listing to its end; `known_classes` keep their numbers, others come after them.

    Names of classes that differ only in how accents are written are one class. Unless the listing
    keeps its order, the rows are in that of the blake2b of their sources.
    """
    numbers = {name: number for number, name in enumerate(known_classes)}
    known = {unicodedata.normalize("NFC", name): name for name in known_classes}
    spelt: dict[str, str] = {}  # the names of new classes, by what `numbers` has for them
    number_of: dict[str | None, int | None] = {None: None}  # by the label as it is listed
    unlabelled: list[str] = []
    ignored: Counter[str] = Counter()

    def tables() -> Iterator[pa.Table]:
        while some := list(islice(listing.rows, BATCH_ROWS)):
            others = [item for item in some if isinstance(item, Ignored)]
            ignored.update(item.kind for item in others)
            rows: list[Any] = [r for r in some if not isinstance(r, Ignored)] if others else some
            given = [row.get("label") for row in rows]
            for label in set(given) - number_of.keys():
                is_known = not listing.counts_as_numbers or label in known_classes
                text = label if is_known else label_text(label)
                if text is not None and text not in known_classes:
                    form = unicodedata.normalize("NFC", text)  # macOS writes accents apart
                    text, given_as = known.get(form, form), text
                    spelt[text] = given_as if spelt.get(text, given_as) == given_as else text
                number_of[label] = None if text is None else numbers.setdefault(text, len(numbers))
            labels = [number_of[label] for label in given]
            if None in labels:
                pairs = zip(rows, labels, strict=True)
                unlabelled.append(min(row["source"] for row, label in pairs if label is None))
            if listing.takes is not None:
                is_taken = [listing.takes(row) for row in rows]
                ignored["in the other part"] += len(rows) - sum(is_taken)
                rows, labels = list(compress(rows, is_taken)), list(compress(labels, is_taken))
            if rows:
                yield _table(rows, labels)

    runs = in_runs(tables())
    rows = Rows(runs if listing.keeps_order else map(hashed, runs))
    if not rows.num_rows:
        raise InputError(f"no image is in this part: {describe_ignored(+ignored)}")
    names: tuple[str, ...] = ()
    why, final = "", None
    if unlabelled or not numbers:
        why = f"{min(unlabelled)} {listing.unlabelled}" if listing.unlabelled else ""
    else:
        new = sorted(spelt[name] for name in numbers.keys() - set(known_classes))
        values = {name: _number(name) for name in new} if listing.counts_as_numbers else {}
        if values and None not in values.values():
            new.sort(key=lambda name: values[name] or 0.0)
        names = (*known_classes, *new)
        number_in = {name: number for number, name in enumerate(names)}
        final = np.array(
            [number_in[name if name in known_classes else spelt[name]] for name in numbers]
        )
    ordered = rows if listing.keeps_order else merged(rows)
    rows = Rows(_labelled(part, final) for part in ordered)
    return Collected(rows, names, why, +ignored)


def _table(rows: list[Row], labels: list[int | None]) -> pa.Table:
    """Rows as a table, without the columns that are all null."""
    names = set().union(*rows)
    columns = {}
    for name, kind in zip(LISTING_SCHEMA.names, LISTING_SCHEMA.types, strict=True):
        if name in names:
            values = labels if name == "label" else [row.get(name) for row in rows]
            array = pa.array(values, kind)
            if array.null_count < len(rows):
                columns[name] = array
    return pa.table(columns)


def _labelled(rows: pa.Table, numbers: NDArray[np.int64] | None) -> pa.Table:
    """Rows with other numbers of their classes, by the present ones; None: without labels."""
    if "label" not in rows.column_names:
        return rows
    if numbers is None:
        return rows.drop_columns("label")
    index = rows.column_names.index("label")
    labels = pa.array(numbers[rows["label"].to_numpy()])
    return rows.set_column(index, PLAN_SCHEMA.field("label"), labels)


def planned(rows: pa.Table) -> pa.RecordBatch:
    """Rows of one chunk per column, with all columns of PLAN_SCHEMA."""
    arrays = [
        rows[column.name].chunk(0)
        if column.name in rows.column_names
        else pa.nulls(rows.num_rows, column.type)
        for column in PLAN_SCHEMA
    ]
    return pa.record_batch(arrays, schema=PLAN_SCHEMA)


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
