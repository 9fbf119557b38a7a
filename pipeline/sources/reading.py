"""Read the bytes of planned images in the order of the plan: files, members of tars, parquet rows.

A failure to read is an error of the input or of its store. It never rejects an image.
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

READ_AHEAD, READ_THREADS = 16, 8
"""Images that are prefetched from a remote store, and the number of threads."""
PARQUET_ROWS = 16
"""Rows of a parquet file that are read at once: each holds a whole image."""


@dataclass(frozen=True)
class RawImage:
    """An image as it was found.

    Attributes:
        source: its name.
        data: its bytes.
        label: index into the class names, or None.
        mask: the bytes of its mask, or None.
    """

    source: str
    data: bytes
    label: int | None
    mask: bytes | None


@dataclass(frozen=True)
class _Row:
    """A row of the plan; see `pipeline.sources.listing.LISTING_SCHEMA`."""

    source: str
    uri: str
    offset: int | None
    length: int | None
    num_bytes: int
    label: int | None
    mask: str | None
    mask_offset: int | None
    mask_bytes: int | None


def read_images(place: DataPlace, rows: pa.RecordBatch) -> Iterator[RawImage]:
    """Read the images of one shard.

    Args:
        place: how to read the data.
        rows: of the plan.

    Raises:
        InputError: an image or a mask is gone, cannot be read, or has another size than when it
            was listed; names it.
    """
    listed = [_row(fields) for fields in rows.to_pylist()]
    if listed and listed[0].offset is not None and listed[0].length is None:
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
    """Read files and members of tars. Several threads prefetch remote files."""
    reader = _Reader(place)
    is_sequential = any(row.offset is not None for row in rows)
    if is_sequential or not rows or not open_uri(place.store, rows[0].uri)[0].is_remote:
        yield from map(reader.image, rows)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        waiting: deque[Future[RawImage]] = deque()
        try:
            for row in rows:
                waiting.append(pool.submit(reader.image, row))
                if len(waiting) == READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Reader:
    """Reads images and masks. The current tar stays open: its members follow each other."""

    def __init__(self, place: DataPlace) -> None:
        self._place = place
        self._tar: tuple[str, IO[bytes]] | None = None

    def image(self, row: _Row) -> RawImage:
        """Read the image and the mask of a row."""
        if row.offset is not None and row.length is not None:
            offset, length = row.offset, row.length
            data = self._checked(
                row.source, row.num_bytes, lambda: self._member(row.uri, offset, length)
            )
        else:
            store, name = open_uri(self._place.store, row.uri)
            data = self._checked(row.source, row.num_bytes, lambda: store.read(name))
        return RawImage(row.source, data, row.label, self._mask(row))

    def _mask(self, row: _Row) -> bytes | None:
        size = -1 if row.mask_bytes is None else row.mask_bytes
        what = f"the mask of {row.source}"
        if row.mask is not None:
            store, name = open_uri(self._place.masks or self._place.store, row.mask)
            return self._checked(what, size, lambda: store.read(name))
        if row.mask_offset is not None:
            offset = row.mask_offset
            return self._checked(what, size, lambda: self._member(row.uri, offset, size))
        return None

    def _member(self, uri: str, offset: int, length: int) -> bytes:
        if self._tar is None or self._tar[0] != uri:
            store, name = open_uri(self._place.store, uri)
            self._tar = (uri, store.open(name))
        self._tar[1].seek(offset)
        return self._tar[1].read(length)

    def _checked(self, what: str, size: int, read: Callable[[], bytes]) -> bytes:
        try:
            data = read()
        except FileNotFoundError as error:
            url = self._place.store.url
            raise InputError(f"{what} has vanished from {url} since it was listed") from error
        if size >= 0 and len(data) != size:
            raise InputError(
                f"{what} has {len(data)} bytes instead of the {size} listed: "
                "is another program still writing it?"
            )
        return data


def _parquet_rows(place: DataPlace, rows: Sequence[_Row]) -> Iterator[RawImage]:
    """Read rows of one parquet file, with only the row groups and columns that it takes."""
    store, name = open_uri(place.store, rows[0].uri)
    wanted = {row.offset: row for row in rows if row.offset is not None}
    first, last = min(wanted), max(wanted)
    try:
        with store.open(name) as file:
            table = pq.ParquetFile(file)
            start = 0
            for group in range(table.num_row_groups):
                end = start + table.metadata.row_group(group).num_rows
                if start <= last and end > first:
                    yield from _of_group(place, table, group, start, wanted)
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
) -> Iterator[RawImage]:
    columns = [column for column in (place.image_column, place.mask_column) if column]
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
