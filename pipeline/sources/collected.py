"""A whole listing in arrow: its rows, with labels as numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.sources.listing import LISTING_SCHEMA, Listing

PLAN_SCHEMA = pa.schema(
    [
        pa.field("label", pa.int64()) if listed.name == "label" else listed
        for listed in LISTING_SCHEMA
    ]
)
"""As LISTING_SCHEMA, with labels as indices into the class names."""


@dataclass(frozen=True)
class Collected:
    """A whole listing: rows of PLAN_SCHEMA less empty columns, class names, why there are none."""

    rows: pa.Table
    class_names: tuple[str, ...]
    unlabelled_because: str

    def without_labels(self, why: str) -> "Collected":
        """The same images, unlabelled."""
        return Collected(_without(self.rows, "label"), (), why)


def collect(listing: Listing, known_classes: Sequence[str] = ()) -> "Collected":
    """Read a listing to its end.

    Args:
        listing: the images.
        known_classes: keep their numbers; others come after them, in order.

    Raises:
        InputError: what the listing raises.
    """
    provisional: dict[str, int] = {name: number for number, name in enumerate(known_classes)}
    columns: dict[str, list[Any]] = {column.name: [] for column in PLAN_SCHEMA}
    first_unlabelled: str | None = None
    for batch in listing.batches:
        for name in columns:
            values = batch.column(name)
            if name == "label":
                if values.null_count:
                    least = pc.min(batch.column("source").filter(values.is_null())).as_py()
                    first_unlabelled = min(first_unlabelled or least, least)
                values = _coded(values, provisional)
            columns[name].append(values if values.null_count < len(values) else len(values))
    joined: dict[str, pa.Array] = {}
    for column in PLAN_SCHEMA:  # one by one: both forms of all columns at once are too much
        parts = columns.pop(column.name)
        if any(isinstance(part, pa.Array) for part in parts):
            whole = [p if isinstance(p, pa.Array) else pa.nulls(p, column.type) for p in parts]
            joined[column.name] = pa.concat_arrays(whole)
    rows = pa.table(joined)
    names = tuple(provisional)
    if first_unlabelled is not None or not provisional:
        why = f"{first_unlabelled} {listing.unlabelled}" if listing.unlabelled else ""
        return Collected(_without(rows, "label"), (), why)
    rank, names = _sorted_classes(names, len(known_classes), listing.counts_as_numbers)
    labels = pa.array(rank[rows["label"].to_numpy()])
    rows = _without(rows, "label").append_column(PLAN_SCHEMA.field("label"), labels)
    return Collected(rows, names, "")


def _coded(labels: pa.Array, numbers: dict[str, int]) -> pa.Array:
    """Labels as numbers; new names get the next ones."""
    encoded = labels.dictionary_encode()
    known = [numbers.setdefault(n, len(numbers)) for n in encoded.dictionary.to_pylist()]
    if not known:
        return pa.nulls(len(labels), pa.int64())
    return pa.array(known, pa.int64()).take(encoded.indices)


def _without(rows: pa.Table, name: str) -> pa.Table:
    return rows.drop_columns([name]) if name in rows.column_names else rows


def _sorted_classes(
    names: Sequence[str], num_known: int, counts_as_numbers: bool
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """New number of each old one, and the names: the known ones first, the others in order."""
    new = list(names[num_known:])
    if counts_as_numbers and all(name.lstrip("-").isdecimal() for name in names):
        new.sort(key=int)
    else:
        new.sort()
    ordered = (*names[:num_known], *new)
    numbers = {name: number for number, name in enumerate(ordered)}
    return np.asarray([numbers[name] for name in names], dtype=np.int64), ordered
