"""The bytes of planned images, in the plan's order: files, members of tars, rows of parquet files.

What cannot be read is an error of the input or of its place, and never rejects an image.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.listing import DataPlace
from pipeline.sources.parquet import BYTES_FIELD
from pipeline.sources.uris import open_uri
from pipeline.storage.storage import Store

READ_AHEAD, READ_THREADS = 16, 8
"""Images that are fetched from a remote store ahead of use, and by how many threads."""
PARQUET_ROWS = 16
"""Rows that are read of a parquet file at once: they hold whole images."""


@dataclass(frozen=True)
class RawImage:
    """One image as it was found.

    Attributes:
        source: its name.
        data: its bytes.
        label: index into the class names; None where there is none.
        mask: the bytes of its mask; None where there is none.
    """

    source: str
    data: bytes
    label: int | None
    mask: bytes | None


@dataclass(frozen=True)
class _Row:
    source: str
    uri: str
    offset: int | None
    length: int | None
    num_bytes: int
    label: int | None
    mask: str | None
    mask_offset: int | None
    mask_bytes: int | None

    @property
    def is_in_parquet(self) -> bool:
        return self.offset is not None and self.length is None


def read_images(place: DataPlace, rows: pa.RecordBatch) -> Iterator[RawImage]:
    """Read the images of one shard.

    Args:
        place: how the data is read.
        rows: of the plan.

    Raises:
        InputError: an image or a mask has vanished, cannot be read, or has another size than when
            it was listed; names it.
    """
    listed = [_row(fields) for fields in rows.to_pylist()]
    if listed and listed[0].is_in_parquet:
        for _, group in groupby(listed, key=lambda row: row.uri):
            yield from _parquet_rows(place, list(group))
    else:
        yield from _fetched(place, listed)


def _row(fields: dict[str, Any]) -> _Row:
    uri = fields.pop("uri")
    mask = fields.pop("mask")
    return _Row(
        uri=fields["source"] if uri is None else os.fsdecode(uri),
        mask=None if mask is None else os.fsdecode(mask),
        **fields,
    )


def _fetched(place: DataPlace, rows: Sequence[_Row]) -> Iterator[RawImage]:
    """Files and members of tars; what is remote is fetched ahead of use, by several threads."""
    containers = _Containers(place.store)
    sequential = any(row.offset is not None for row in rows)

    def fetch(row: _Row) -> RawImage:
        return RawImage(
            row.source, _image(place, containers, row), row.label, _mask(place, containers, row)
        )

    if sequential or not rows or not open_uri(place.store, rows[0].uri)[0].is_remote:
        yield from map(fetch, rows)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        waiting: deque[Future[RawImage]] = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(fetch, row))
                if len(waiting) == READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Containers:
    """The tar that is being read, kept open: its members come one after the other."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: tuple[str, IO[bytes]] | None = None

    def read(self, uri: str, offset: int, length: int) -> bytes:
        """Bytes of a container."""
        if self._open is None or self._open[0] != uri:
            store, name = open_uri(self._store, uri)
            self._open = (uri, store.open(name))
        file = self._open[1]
        file.seek(offset)
        return file.read(length)


def _image(place: DataPlace, containers: _Containers, row: _Row) -> bytes:
    def read() -> bytes:
        if row.offset is not None and row.length is not None:
            return containers.read(row.uri, row.offset, row.length)
        store, name = open_uri(place.store, row.uri)
        return store.read(name)

    return _checked(place, row.source, row.num_bytes, read)


def _mask(place: DataPlace, containers: _Containers, row: _Row) -> bytes | None:
    size = -1 if row.mask_bytes is None else row.mask_bytes
    what = f"the mask of {row.source}"
    if row.mask is not None:
        store, name = open_uri(place.masks or place.store, row.mask)
        return _checked(place, what, size, lambda: store.read(name))
    if row.mask_offset is not None:
        offset = row.mask_offset
        return _checked(place, what, size, lambda: containers.read(row.uri, offset, size))
    return None


def _checked(place: DataPlace, what: str, size: int, read: Callable[[], bytes]) -> bytes:
    try:
        data = read()
    except FileNotFoundError as error:
        raise InputError(f"{what} has vanished from {place.store.url} since it was listed") from (
            error
        )
    if size >= 0 and len(data) != size:
        raise InputError(
            f"{what} has {len(data)} bytes instead of the {size} listed: "
            "is something still writing it?"
        )
    return data


def _parquet_rows(place: DataPlace, rows: Sequence[_Row]) -> Iterator[RawImage]:
    """A run of rows of one parquet file, with only the row groups and columns that it takes."""
    store, name = open_uri(place.store, rows[0].uri)
    columns = [column for column in (place.image_column, place.mask_column) if column]
    wanted = {row.offset: row for row in rows if row.offset is not None}
    first, last = min(wanted), max(wanted)
    try:
        with store.open(name) as file:
            table = pq.ParquetFile(file)
            start = 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if start <= last and end > first:
                    yield from _of_group(place, table, group, start, wanted, columns)
                start = end
            if start <= last:
                raise InputError(f"{store.where(name)} has {start} rows now, fewer than listed")
    except FileNotFoundError as error:
        raise InputError(f"{store.where(name)} has vanished since it was listed") from error
    except pa.ArrowException as error:
        message = " ".join(str(error).split())
        raise InputError(f"{store.where(name)} cannot be read: {message}") from error


def _of_group(
    place: DataPlace,
    table: Any,  # noqa: ANN401  (pyarrow has no types)
    group: int,
    start: int,
    wanted: dict[int, _Row],
    columns: list[str],
) -> Iterator[RawImage]:
    number = start
    for batch in table.iter_batches(PARQUET_ROWS, row_groups=[group], columns=columns):
        for position in range(batch.num_rows):
            row = wanted.get(number)
            number += 1
            if row is None:
                continue
            mask = _cell(batch, place.mask_column, position) if place.mask_column else None
            image = _cell(batch, place.image_column, position)
            yield RawImage(row.source, image or b"", row.label, mask)


def _cell(batch: pa.RecordBatch, column: str, position: int) -> bytes | None:
    value = batch.column(column)[position].as_py()
    if isinstance(value, dict):
        value = value[BYTES_FIELD]
    return None if value is None else bytes(value)
