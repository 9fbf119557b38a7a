"""List the images in tables: text, CSV or parquet with a column of URIs, parquet with the bytes."""

import codecs
import io
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.columns import (
    BYTES_FIELD,
    PATH_FIELD,
    Columns,
    choose_columns,
    columns_of_further,
    csv_head,
)
from pipeline.sources.listing import BATCH_ROWS, DataStore, Ignored, Listing, Row, SourceOptions
from pipeline.storage.parquet import as_text, open_parquet
from pipeline.storage.storage import open_store, open_uri
from pipeline.storage.store import LocalStore, Store, printable

CSV_BLOCK_BYTES = 16 << 20
"""A row may not be longer."""
LONGEST_URI = 1 << 12
"""In letters: no path on Linux has more."""


def list_tables(store: Store, names: Sequence[str], options: SourceOptions) -> Listing:
    """List the images that tables of one kind name or contain.

    Relative URIs are relative to their table's folder. Columns of images and of masks are both
    URIs or both bytes.
    """
    suffix = os.path.splitext(names[0])[1].lower()
    columns = Columns("", "", "", holds_bytes=False)
    if suffix != ".txt":
        columns = choose_columns(store.where(names[0]), _schema(store, names[0], suffix), options)
    elif options.columns:
        raise InputError(f"{store.where(names[0])}: a text list has no columns")
    return Listing(
        data=DataStore(
            store=store,
            masks=store,
            image_column=columns.image if columns.holds_bytes else "",
            mask_column=columns.mask if columns.holds_bytes else "",
        ),
        rows=_rows(store, names, suffix, columns),
        keeps_order=columns.holds_bytes,
        counts_as_numbers=True,
        unlabelled="has no label" if columns.label else "",
    )


def _schema(store: Store, name: str, suffix: str) -> pa.Schema:
    with readable(store, name), store.open(name) as file:
        if suffix == ".parquet":
            return pq.read_schema(file)
        return csv_head(file).schema


def _rows(
    store: Store, names: Sequence[str], suffix: str, columns: Columns
) -> Iterator[Row | Ignored]:
    of_each = [columns]
    for name in names[1:]:  # before the first row: the work would end in its middle
        if suffix != ".txt":
            schema, first = _schema(store, name, suffix), store.where(names[0])
            of_each.append(columns_of_further(store.where(name), schema, columns, first))
        else:
            of_each.append(columns)
    found = False
    for name, its_columns in zip(names, of_each, strict=True):
        with readable(store, name), store.open(name) as file:
            rows = _rows_of_uris(store, name, _cells(file, suffix, its_columns))
            if columns.holds_bytes:
                rows = _rows_of_bytes(store, name, file, its_columns)
            for row in rows:
                found = found or not isinstance(row, Ignored)
                yield row
    if not found:
        raise InputError(f"no images in {store.where(names[0])}: it has no rows")


@contextmanager
def readable(store: Store, name: str) -> Iterator[None]:
    """Turn the errors of pyarrow about a table into an `InputError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"no such file: {store.where(name)}") from error
    except (pa.ArrowException, UnicodeError, OSError) as error:  # pyarrow raises all of them
        message = " ".join(str(error).split())
        message += " (save it as UTF-8)" if "utf" in message.lower() else ""
        raise InputError(f"{store.where(name)} cannot be read: {message}") from error


Cells = tuple[str | None, str | None, str | None, str | None]
"""Image, label, mask and group of a row, as text."""


def _cells(file: IO[bytes], suffix: str, columns: Columns) -> Iterator[Cells]:
    if suffix == ".txt":
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise UnicodeError("it is UTF-16")
        file.seek(0)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        for line in text:
            if line.strip():
                yield line.rstrip("\r\n"), None, None, None
        return
    if suffix == ".parquet":
        names = columns.names()
        table = open_parquet(file)
        batches = table.iter_batches(BATCH_ROWS, columns=names, use_threads=False)
    else:
        convert = arrow_csv.ConvertOptions(
            include_columns=columns.names(),
            column_types=dict.fromkeys(columns.names(), pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        head = csv_head(file)
        file.seek(0)
        reading = arrow_csv.ReadOptions(
            column_names=head.schema.names,
            skip_rows=head.num_lines,
            block_size=CSV_BLOCK_BYTES,
            use_threads=False,
        )
        parsing = arrow_csv.ParseOptions(delimiter=head.delimiter, newlines_in_values=True)
        batches = arrow_csv.open_csv(file, reading, parsing, convert)
    for batch in batches:
        images, labels, masks, groups = (
            as_text(batch.column(name)).to_pylist() if name else [None] * batch.num_rows
            for name in (columns.image, columns.label, columns.mask, columns.group)
        )
        yield from zip(images, map(columns.label_of, labels), masks, groups, strict=True)


def _rows_of_uris(store: Store, name: str, cells: Iterator[Cells]) -> Iterator[Row | Ignored]:
    """The rows of a list; InputError names the list and the row, by its number from 1.

    Rows at its end that are blank, as Excel writes them, are ignored and counted.
    """
    seen_buckets: set[str] = set()
    blank: list[int] = []
    for number, (image, label, mask, group) in enumerate(cells, 1):
        if not any(cell and cell.strip() for cell in (image, label, mask, group)):
            blank.append(number)
            continue
        if blank:
            raise InputError(f"{store.where(name)}, row {blank[0]}: the image has no URI")
        try:
            row = _row_of_uri(store, name, image or "", seen_buckets)
            if mask:
                at = _row_of_uri(store, name, mask, seen_buckets)
                row["mask"] = at["uri"] or os.fsencode(at["source"])
                row["mask_bytes"] = at["num_bytes"]
        except InputError as error:
            raise InputError(f"{store.where(name)}, row {number}: {error}") from error
        yield row | {"label": label, "group": group}
    yield from (Ignored("blank rows") for _ in blank)


def _row_of_uri(store: Store, table: str, text: str, seen_buckets: set[str]) -> Row:
    """`source`, `uri` and `num_bytes` of an entry of a list; a local file must exist.

    The size of an object is -1: asking for each takes hours. Only the first object of each bucket
    is looked up, so that a wrong prefix fails at once.
    """
    source, uri = _source_and_uri(store, table, text)
    place, name = open_uri(store, uri)
    bucket = place.url.split("/")[2] if place.is_remote else ""
    row: Row = {"source": source, "uri": None if uri == source else os.fsencode(uri)}
    if bucket in seen_buckets:
        return row | {"num_bytes": -1}
    file = place.find(name)
    for form in ("NFC", "NFD"):  # macOS writes accents apart, others do not
        other = unicodedata.normalize(form, name)
        if file is None and uri == name and (file := place.find(other)) is not None:
            row["uri"] = os.fsencode(other)
    if file is None:
        hint = ": write / in the place of \\" if "\\" in name else ""
        hint = ": there are spaces around its name" if text != text.strip() else hint
        raise InputError(f"{place.where(name)} does not exist or is not a file{hint}")
    if bucket:  # the others are not looked up either
        seen_buckets.add(bucket)
        return row | {"num_bytes": -1}
    return row | {"num_bytes": file.num_bytes, "version": file.version}


def _source_and_uri(store: Store, table: str, text: str) -> tuple[str, str]:
    """Where an entry of a list lies: a path, absolute or relative to the list's folder, or a URL.

    The source is relative to the list's store if possible, else a URL without options.
    """
    if not text.strip():
        raise InputError("the image has no URI")
    if len(text) > LONGEST_URI:
        raise InputError(f"{text[:40]}... is no path or URL (base64 has to be decoded first)")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" in text:
        url = open_store(text).url
        if "/" not in url.partition("://")[2]:
            raise InputError(f"{text} names no object in the bucket")
        return url, text
    if not text.startswith("/"):
        name = posixpath.normpath(posixpath.join(posixpath.dirname(table), text))
    elif isinstance(store, LocalStore):
        name = os.path.relpath(text, store.root)  # no absolute path is recorded
    else:
        raise InputError(f"{text} is a local path in a remote list: use relative paths and URLs")
    if not (store.is_remote and name.startswith("../")):
        return printable(name), name
    scheme, _, base = store.url.partition("://")
    path = posixpath.normpath(posixpath.join(base, name))
    if path.startswith("..") or "/" not in path:
        raise InputError(f"{text} leads out of the bucket")
    return printable(name), f"{scheme}://{path}"


def _rows_of_bytes(store: Store, name: str, file: IO[bytes], columns: Columns) -> Iterator[Row]:
    """The rows of a table that contains the images; a null one may have a path in its place."""
    table = pq.ParquetFile(file)
    masked = _present(table, columns.mask)
    cells = _cells(file, ".parquet", columns._replace(image="", mask=""))
    paths = _paths(table, columns.image)
    seen_buckets: set[str] = set()
    about = store.find(name)
    for number, ((_, label, _, group), path, has_mask) in enumerate(
        zip(cells, paths, masked, strict=True)
    ):
        row: Row = {
            "source": f"{printable(name)}/{number:09d}",
            "version": about and about.version,
            "num_bytes": -1,
            "uri": os.fsencode(name),
            "offset": number,
            "mask_offset": number if has_mask else None,
        }
        if path:
            try:
                row = _row_of_uri(store, name, path, seen_buckets)
            except InputError as error:
                raise InputError(f"{store.where(name)}, row {number + 1}: {error}") from error
            if has_mask:
                raise InputError(
                    f"{store.where(name)}, row {number + 1} has a mask, but only the path of its "
                    "image: wanted are both as bytes"
                )
        yield row | {"label": label, "group": group}


def _paths(table: pq.ParquetFile, column: str) -> Iterator[str | None]:
    """The path in each row whose image is null; None where the image is there, or no path is."""
    kind = table.schema_arrow.field(column).type
    has_paths = pa.types.is_struct(kind) and kind.get_field_index(PATH_FIELD) >= 0
    present = _present(table, column)
    if not has_paths:
        yield from (None for _ in present)
        return
    name = f"{column}.{PATH_FIELD}"
    batches = table.iter_batches(BATCH_ROWS, columns=[name], use_threads=False)
    paths = (p for b in batches for p in pc.struct_field(b.column(0), PATH_FIELD).to_pylist())
    for is_there, path in zip(present, paths, strict=True):
        yield None if is_there or path is None else str(path)


def _present(table: pq.ParquetFile, column: str) -> Iterator[bool]:
    """Which rows have an image or a mask; it is read only if the file's statistics do not tell."""
    for group in range(table.num_row_groups):
        about = table.metadata.row_group(group)
        parts = [about.column(i) for i in range(about.num_columns)]
        nulls = [
            part.statistics and part.statistics.null_count
            for part in parts
            if part.path_in_schema in (column, f"{column}.{BYTES_FIELD}")
        ]
        if not column or nulls == [0]:
            yield from [bool(column)] * about.num_rows
            continue
        for batch in table.iter_batches(16, [group], [column], use_threads=False):
            yield from bytes_of(batch.column(column)).is_valid().to_pylist()


def bytes_of(cells: pa.Array) -> pa.Array:
    """The images or masks in a column, which may be structs, as the `datasets` library writes."""
    return pc.struct_field(cells, BYTES_FIELD) if pa.types.is_struct(cells.type) else cells
