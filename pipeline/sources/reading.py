"""Read the bytes of planned images in the order of the plan: files, members of tars, parquet rows.

A failure to read is an error of the input or of its store. It never rejects an image.
"""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import groupby
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.listing import DataStore, Row
from pipeline.sources.table import bytes_of, readable
from pipeline.storage.storage import open_uri
from pipeline.storage.store import Store

READ_AHEAD, READ_THREADS = 16, 8
"""Images that are prefetched from a remote store, and the number of threads."""
PARQUET_ROWS = 16
"""Rows of a parquet file that are read at once: each contains a whole image."""


@dataclass(frozen=True)
class RawImage:
    """The bytes of an image and of its mask; the label is an index into the class names."""

    source: str
    data: bytes
    label: int | None
    mask: bytes | None = None

    @cached_property
    def sha256(self) -> str:
        """Digest of its bytes."""
        return sha256(self.data).hexdigest()


def read_images(data: DataStore, rows: pa.RecordBatch) -> Iterator[RawImage]:
    """Read the images of rows of PLAN_SCHEMA.

    InputError names an image or a mask that is gone or has another size than when it was listed.
    """
    listed: list[Row] = rows.to_pylist()
    for row in listed:
        row["uri"] = os.fsdecode(row["uri"] or row["source"])
    for parquet, group in groupby(listed, key=_parquet_of):
        if parquet is None:
            yield from _files_and_members(data, list(group))
        else:
            yield from _parquet_rows(data, parquet, {row["offset"]: row for row in group})


def _parquet_of(row: Row) -> str | None:
    """The parquet file that a row is in, or None."""
    return row["uri"] if row["offset"] is not None and row["length"] is None else None


def _files_and_members(data: DataStore, listed: list[Row]) -> Iterator[RawImage]:
    reader = _Reader(data)
    is_remote = open_uri(data.store, listed[0]["uri"])[0].is_remote
    if not is_remote or any(row["offset"] is not None for row in listed):
        yield from map(reader.image, listed)
        return
    with ThreadPoolExecutor(READ_THREADS) as pool:
        waiting: deque[Future[RawImage]] = deque()
        try:
            for row in listed:
                waiting.append(pool.submit(reader.image, row))
                if len(waiting) == READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


class _Reader:
    """Reads images and masks. The current tar stays open: its members follow each other."""

    def __init__(self, data: DataStore) -> None:
        self._data = data
        self._tar: tuple[str, IO[bytes]] | None = None

    def image(self, row: Row) -> RawImage:
        store, source, uri = self._data.store, row["source"], row["uri"]
        data = self._read(source, store, uri, row["offset"], row["num_bytes"])
        mask: bytes | None = None
        what, size = f"the mask of {source}", row["mask_bytes"]
        if row["mask"] is not None:
            masks = self._data.masks or store
            mask = self._read(what, masks, os.fsdecode(row["mask"]), None, size)
        elif row["mask_offset"] is not None:
            mask = self._read(what, store, uri, row["mask_offset"], size)
        return RawImage(source, data, row["label"], mask)

    def _read(
        self, what: str, base: Store, uri: str, offset: int | None, size: int | None
    ) -> bytes:
        """A file, or a member of a tar; a size of -1 or None is not checked."""
        try:
            if offset is None:
                store, name = open_uri(base, uri)
                data = store.read(name)
            else:
                if self._tar is None or self._tar[0] != uri:
                    store, name = open_uri(base, uri)
                    self._tar = (uri, store.open(name))
                self._tar[1].seek(offset)
                data = self._tar[1].read(size or 0)
        except FileNotFoundError as error:
            url = self._data.store.url
            raise InputError(f"{what} has vanished from {url} since it was listed") from error
        if size is not None and 0 <= size != len(data):
            raise InputError(
                f"{what} has {len(data)} bytes instead of the {size} listed: "
                "is another program still writing it?"
            )
        return data


def _parquet_rows(data: DataStore, uri: str, wanted: dict[int, Row]) -> Iterator[RawImage]:
    """Read rows, by their numbers, of one parquet file, with only the row groups that it takes."""
    store, name = open_uri(data.store, uri)
    columns = [column for column in (data.image_column, data.mask_column) if column]
    with readable(store, name), store.open(name) as file:
        table = pq.ParquetFile(file)
        if max(wanted) >= table.metadata.num_rows:
            raise InputError(
                f"{store.where(name)} has {table.metadata.num_rows} rows now, fewer than listed"
            )
        number = 0
        for group in range(table.num_row_groups):
            end = number + table.metadata.row_group(group).num_rows
            if wanted.keys().isdisjoint(range(number, end)):
                number = end
                continue
            # A thread of arrow that holds the file while Python ends aborts the process
            # (apache/arrow#34314), here and wherever else arrow reads an object of Python.
            for batch in table.iter_batches(PARQUET_ROWS, [group], columns, use_threads=False):
                cells = [bytes_of(batch.column(column)).to_pylist() for column in columns]
                for image, *mask in zip(*cells, strict=True):
                    if row := wanted.get(number):
                        yield RawImage(row["source"], image or b"", row["label"], *mask)
                    number += 1
