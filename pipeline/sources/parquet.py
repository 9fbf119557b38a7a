"""Parquet files that hold the images themselves: a row's number says where its image is."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.listing import BATCH_ROWS, RowBuffer
from pipeline.storage.storage import Store, printable

BYTES_FIELD = "bytes"
"""Where a struct column keeps the image, as the `datasets` library writes it."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used; label and mask are empty where there are none."""

    image: str
    label: str
    mask: str

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in (self.image, self.label, self.mask) if name]


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images or masks, and does not name them."""
    if pa.types.is_struct(kind):
        return BYTES_FIELD in [kind.field(i).name for i in range(kind.num_fields)]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def row_batches(store: Store, names: Sequence[str], columns: Columns) -> Iterator[pa.RecordBatch]:
    """The rows of a listing, one for each row of the files.

    Raises:
        InputError: a file is missing or cannot be read, or there are no rows.
    """
    rows = RowBuffer()
    found = False
    for name in names:
        small = [column for column in (columns.label,) if column]
        with readable(store, name), store.open(name) as file:
            table = pq.ParquetFile(file)
            labels = (
                label
                for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=small)
                for label in _labels(batch, columns.label)
            )
            masked = _masked(table, columns.mask)
            numbers = range(table.metadata.num_rows)
            for number, label, has_mask in zip(numbers, labels, masked, strict=True):
                found = True
                rows.add(
                    f"{printable(name)}/{number:09d}",
                    -1,
                    uri=os.fsencode(name),
                    offset=number,
                    label=label or None,
                    mask_offset=number if has_mask else None,
                )
                if rows.is_full:
                    yield rows.take()
    if not found:
        raise InputError(f"no images in {store.where(names[0])}: it has no rows")
    yield rows.take()


def _labels(batch: pa.RecordBatch, column: str) -> list[str | None]:
    if not column:
        return [None] * batch.num_rows
    return list(batch.column(column).cast(pa.string()).to_pylist())


def _masked(table: pq.ParquetFile, column: str) -> Iterator[bool]:
    """Which rows have a mask; the masks are read only where the file does not tell."""
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        if not column:
            yield from [False] * about.num_rows
            continue
        parts = [about.column(i) for i in range(about.num_columns)]
        nulls = [
            part.statistics.null_count if part.statistics is not None else None
            for part in parts
            if part.path_in_schema in (column, f"{column}.{BYTES_FIELD}")
        ]
        if nulls == [0]:
            yield from [True] * about.num_rows
            continue
        for batch in table.iter_batches(64, row_groups=[group], columns=[column]):
            cells = batch.column(column)
            if pa.types.is_struct(cells.type):
                cells = cells.field(BYTES_FIELD)
            yield from cells.is_valid().to_pylist()


@contextmanager
def readable(store: Store, name: str) -> Iterator[None]:
    """Turns what pyarrow raises about a table into an `InputError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"no such file: {store.where(name)}") from error
    except (pa.ArrowException, UnicodeError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{store.where(name)} cannot be read: {message}") from error
    except OSError as error:  # pyarrow's readers say it so
        raise InputError(f"{store.where(name)} cannot be read: {error}") from error
