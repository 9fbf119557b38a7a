"""Which columns of a table have the images, labels and masks, and whether they contain them."""

import io
import re
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.csv as arrow_csv

from pipeline.core.errors import InputError, check, first_ten
from pipeline.core.plain import parse
from pipeline.sources.listing import SourceOptions

IMAGE_COLUMNS = ("image", "uri", "url", "path", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "cls")
BYTES_FIELD, PATH_FIELD = "bytes", "path"
"""The fields of a struct column, as the `datasets` library writes it: the image, or where it is."""


class Columns(NamedTuple):
    """The columns that are used; label, mask and group are empty if there are none."""

    image: str
    label: str
    mask: str
    holds_bytes: bool
    group: str = ""
    unknown: str = ""
    """What stands for no label."""

    def label_of(self, cell: str | None) -> str | None:
        """A label without spaces around it."""
        text = (cell or "").strip()
        return None if text in ("", self.unknown) else text

    def names(self) -> list[str]:
        """Those that there are."""
        named = (self.image, self.label, self.mask, self.group)
        return list(dict.fromkeys(name for name in named if name))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type contains images or masks, instead of naming them."""
    if pa.types.is_struct(kind):
        return BYTES_FIELD in [kind.field(i).name for i in range(kind.num_fields)]
    of_kind = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary
    return any(found(kind) for found in (*of_kind, pa.types.is_binary_view))  # polars has views


def choose_columns(table: str, schema: pa.Schema, options: SourceOptions) -> Columns:
    """Name the columns that are used."""
    there = schema.names
    listed = f"it has {first_ten(there)}"
    for option, name in options.columns.items():
        if name not in there:
            raise InputError(
                f"{table} has no column {name!r} (--{option.replace('_', '-')}): {listed}"
            )
    image, label, mask = options.image_column, options.label_column, options.mask_column
    if not image:
        found = [name for name in IMAGE_COLUMNS if name in there]
        if len(found) != 1:
            which = f"any of {', '.join(found)}" if found else "none that is known by its name"
            raise InputError(
                f"{table}: the column of images may be {which}: name it with --image-column "
                f"({listed})"
            )
        image = found[0]
    if not label:
        label = next((name for name in LABEL_COLUMNS if name in there and name != image), "")
    label = label if options.labels else ""
    columns = Columns(image, label, mask, holds_bytes=False, group=options.group_column)
    _check_cells(table, schema, columns)
    holds_bytes = is_bytes(schema.field(image).type)
    if mask and is_bytes(schema.field(mask).type) != holds_bytes:
        raise InputError(f"{table}: {image} and {mask} have to be both URIs or both bytes")
    return columns._replace(holds_bytes=holds_bytes, unknown=_unknown(schema, label))


def _unknown(schema: pa.Schema, label: str) -> str:
    """What `datasets` writes in a column of classes for an unknown one: -1."""
    try:
        features = parse((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return "-1" if features[label]["_type"] == "ClassLabel" else ""
    except (KeyError, TypeError, ValueError):
        return ""


def _check_cells(table: str, schema: pa.Schema, columns: Columns) -> None:
    """Check that the names are unique and that cells hold one value each, or an image."""
    for name in columns.names():
        check(
            (count := schema.names.count(name)) < 2,
            f"{table} has {count} columns named {name}: rename one",
        )
        kind = schema.field(name).type if count else pa.null()
        has_image = name in (columns.image, columns.mask) and is_bytes(kind)
        check(
            has_image or not pa.types.is_nested(kind),
            f"{table}: wanted one value in each cell of its column {name}, got {kind!s:.60}: name "
            "another column (--image-column, --label-column, --mask-column), or leave labels out "
            "(--no-labels)",
        )


def columns_of_further(table: str, schema: pa.Schema, columns: Columns, first: str) -> Columns:
    """The columns of a further table of a listing; its rows have no label if it has no such column.

    Raises:
        InputError: its images or masks are not in the first table's columns, in the same way.
    """
    there = schema.names
    _check_cells(table, schema, columns)
    for name in (columns.image, columns.mask, columns.group):
        if name and name not in there:
            raise InputError(
                f"{table} has no column {name!r}, which {first} has (it has {first_ten(there)}): "
                "give it to a job of its own, or rename the column"
            )
        if (
            name
            and name != columns.group
            and is_bytes(schema.field(name).type) != columns.holds_bytes
        ):
            kinds = ("URIs", "bytes") if columns.holds_bytes else ("bytes", "URIs")
            raise InputError(
                f"{table}: its column {name} has {kinds[0]}, that of {first} {kinds[1]}: give it "
                "to a job of its own"
            )
    return columns if columns.label in there else columns._replace(label="")


class CsvHead(NamedTuple):
    """The first lines of a CSV file: its columns, what parts its cells, and how many lines."""

    schema: pa.Schema
    delimiter: str
    num_lines: int


def csv_head(file: IO[bytes]) -> CsvHead:
    """Read the line of column names, without spaces around them, and what Excel has before it."""
    line, num_lines = file.readline(), 1
    named = re.fullmatch(rb'(?:\xef\xbb\xbf)?"?sep=([^\r\n])"?\s*', line, re.IGNORECASE)
    if named:
        line, num_lines = file.readline(), 2
    # Commas or, as Excel writes, semicolons or tabs.
    marks = [named[1].decode("latin-1")] if named else [m for m in ",;\t" if m.encode() in line]
    delimiter = marks[0] if marks else ","
    parsing = arrow_csv.ParseOptions(delimiter=delimiter)
    fields = arrow_csv.read_csv(io.BytesIO(line), parse_options=parsing).schema  # in UTF-8, or not
    schema = pa.schema([one.with_name(one.name.strip()) for one in fields])
    return CsvHead(schema, delimiter, num_lines)
