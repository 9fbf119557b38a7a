"""Text in parquet files, where a few bytes can stand for a long text a million times."""

import pyarrow as pa
import pyarrow.compute as pc

LONGEST_TEXT = 1 << 16
"""Bytes of a name, a label, a path or a reason."""


def texts(schema: pa.Schema) -> list[str]:
    """Columns to read as dictionaries (`read_dictionary`): there each text takes memory once."""
    kinds = pa.types.is_string, pa.types.is_large_string
    return [field.name for field in schema if any(kind(field.type) for kind in kinds)]


def as_text(column: pa.Array) -> pa.Array:
    """A column as strings; ArrowInvalid where one of a dictionary is longer than `LONGEST_TEXT`."""
    if pa.types.is_dictionary(column.type) and not pa.types.is_integer(column.type.value_type):
        longest = pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        if longest > LONGEST_TEXT:
            raise pa.ArrowInvalid(f"a text has {longest} bytes, wanted at most {LONGEST_TEXT}")
    return column.cast(pa.string())
