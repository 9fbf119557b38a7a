"""A table in parts, of which only the first few million rows are kept in memory."""

import mmap
import tempfile
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.errors import write_error

MEMORY_ROWS = 1 << 21
PART_ROWS = 1 << 18
RUN_TABLES = 128
"""Listed tables that are sorted at once."""
HASHES = ("hash_0", "hash_1")
POOL = pa.system_memory_pool()
"""Keeps freed memory: with arrow's own pool two thirds of a sort are page faults."""


class Rows:
    """A table in parts of one chunk per column; a part may lack columns that are null in it.

    What does not fit in `MEMORY_ROWS` lies in a temporary file without a name, which disappears
    with its process. A part is mapped into memory for as long as it is used.
    """

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self._parts: list[pa.Table | tuple[int, int]] = []
        self._file: IO[bytes] | None = None
        ends = [0]
        for table in tables:
            if table.num_rows:
                ends.append(ends[-1] + table.num_rows)
                table = table.combine_chunks()
                self._parts.append(table if ends[-1] <= MEMORY_ROWS else self._spill(table))
        self._ends = np.array(ends)

    def _spill(self, table: pa.Table) -> tuple[int, int]:
        """Append a table to the file; returns where it is. InputError if there is no space."""
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="salmask-")  # noqa: SIM115
            start = self._file.tell()
            start += -start % mmap.ALLOCATIONGRANULARITY
            self._file.seek(start)
            with pa.ipc.new_stream(self._file, table.schema) as writer:
                writer.write_table(table)
            self._file.flush()
        except OSError as error:
            raise write_error("a temporary file (TMPDIR says where)", error) from error
        return start, self._file.tell() - start

    def _part(self, number: int) -> pa.Table:
        part = self._parts[number]
        if self._file is None or not isinstance(part, tuple):
            return part
        start, length = part
        mapped = mmap.mmap(self._file.fileno(), length, access=mmap.ACCESS_READ, offset=start)
        return pa.ipc.open_stream(pa.py_buffer(mapped)).read_all()

    def __iter__(self) -> Iterator[pa.Table]:
        return map(self._part, range(len(self._parts)))

    def spans(self) -> Iterator[tuple[pa.Table, int, int]]:
        """Each part, and from which row to which it is."""
        return zip(self, self._ends[:-1].tolist(), self._ends[1:].tolist(), strict=True)

    @property
    def num_rows(self) -> int:
        """In all parts."""
        return int(self._ends[-1])

    def take(self, places: NDArray[np.int64]) -> pa.Table:
        """Some rows, in that order."""
        parts = np.searchsorted(self._ends, places, side="right") - 1
        found, order = [pa.table({})], np.argsort(parts, kind="stable")
        for number in np.unique(parts).tolist():
            of_part = places[order[parts[order] == number]]
            found.append(self._part(number).take(pa.array(of_part - self._ends[number])))
        return joined(found).take(pa.array(np.argsort(order))).combine_chunks()


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of one chunk per column, of the columns that any of the tables has."""
    return pa.concat_tables(tables, promote_options="default").combine_chunks(memory_pool=POOL)


def in_runs(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Join tables that are small."""
    while some := list(islice(tables, RUN_TABLES)):
        yield joined(some)


def hashed(table: pa.Table) -> pa.Table:
    """A table in the order of the hashes of its sources, which become two more columns."""
    for name, words in zip(HASHES, source_hashes(table["source"], 16).T, strict=True):
        table = table.append_column(name, pa.array(words))
    return _by_hash(table)


def _by_hash(table: pa.Table) -> pa.Table:
    high, low = (table[name].to_numpy() for name in HASHES)
    order = np.argsort(high)
    if (np.diff(high[order]) == 0).any():
        order = np.lexsort((low, high))
    return pc.take(table, pa.array(order), boundscheck=False, memory_pool=POOL)


def merged(runs: Rows) -> Iterator[pa.Table]:
    """Merge parts that `hashed` has made: parts in the order of the hashes, without these columns.

    Each part is one of equal ranges of hashes, with the rows of all runs that are in it.
    """
    empty = pa.unify_schemas([run.schema for run in runs]).empty_table()
    num_parts = -(-runs.num_rows // PART_ROWS)
    limits = [(number << 64) // num_parts for number in range(1, num_parts)]
    places = [
        [0, *np.searchsorted(run[HASHES[0]].to_numpy(), np.array(limits, np.uint64)), run.num_rows]
        for run in runs
    ]
    for number in range(num_parts):
        spans = (of_run[number : number + 2] for of_run in places)
        cut = (run.slice(a, b - a) for run, (a, b) in zip(runs, spans, strict=True))
        yield _by_hash(joined([empty, *cut])).drop_columns(list(HASHES))


def key_hashes(rows: Rows) -> NDArray[np.uint64]:
    """The hash of each source that its key ends in."""
    hashes = np.empty(rows.num_rows, np.uint64)
    for part, start, stop in rows.spans():
        hashes[start:stop] = source_hashes(part["source"], 8)[:, 0]
    return hashes


def source_hashes(sources: pa.Array | pa.ChunkedArray, size: int) -> NDArray[np.uint64]:
    """blake2b of each source, as big-endian words: uint64 [n, size / 8]."""
    digests, empty = bytearray(), blake2b(digest_size=size).copy
    for text in sources.cast(pa.large_binary()).to_pylist():
        digest = empty()  # faster than a new one
        digest.update(text)
        digests += digest.digest()
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64).reshape(-1, size // 8)
