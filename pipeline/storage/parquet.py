"""Text in parquet files, where a few bytes can stand for a long text a million times."""

from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

LONGEST_TEXT = 1 << 16
"""Bytes of a name, a label, a path or a reason."""


def open_parquet(file: IO[bytes] | pa.BufferReader) -> pq.ParquetFile:
    """Open a file whose columns of text become dictionaries: there each text takes memory once."""
    plain, kinds = pq.ParquetFile(file), (pa.types.is_string, pa.types.is_large_string)
    texts = [one.name for one in plain.schema_arrow if any(kind(one.type) for kind in kinds)]
    return pq.ParquetFile(file, metadata=plain.metadata, read_dictionary=texts)


def as_text(column: pa.Array) -> pa.Array:
    """A column as strings; ArrowInvalid where one of a dictionary is longer than `LONGEST_TEXT`."""
    if pa.types.is_dictionary(column.type) and not pa.types.is_integer(column.type.value_type):
        longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        if longest > LONGEST_TEXT:
            raise pa.ArrowInvalid(f"a text has {longest} bytes, wanted at most {LONGEST_TEXT}")
    return column.cast(pa.string())
