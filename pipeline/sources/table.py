"""List the images in tables: text, CSV or parquet with a column of URIs, parquet with the bytes."""

import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import IO
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.listing import BATCH_ROWS, DataStore, Listing, Row, SourceOptions
from pipeline.storage.storage import open_store, open_uri
from pipeline.storage.store import LocalStore, Store, printable

IMAGE_COLUMNS = ("image", "uri", "url", "path", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "cls")
BYTES_FIELD = "bytes"
"""The field of a struct column that holds the image."""


def list_tables(store: Store, names: Sequence[str], options: SourceOptions) -> Listing:
    """List the images that tables of one kind name or contain.

    Relative URIs are relative to their table's folder. Columns of images and of masks are both
    URIs or both bytes.
    """
    table = store.where(names[0])
    suffix = os.path.splitext(names[0])[1].lower()
    holds_bytes = False
    if suffix == ".txt":
        if options.columns:
            raise InputError(f"{table}: a text list has no columns")
    else:
        schema = _schema(store, names[0], suffix)
        options = _choose(table, schema.names, options)
        image, mask = options.image_column, options.mask_column
        holds_bytes = _is_bytes(schema.field(image).type)
        if mask and _is_bytes(schema.field(mask).type) != holds_bytes:
            raise InputError(f"{table}: {image} and {mask} have to be both URIs or both bytes")
    return Listing(
        data=DataStore(
            store=store,
            masks=store,
            image_column=options.image_column if holds_bytes else "",
            mask_column=options.mask_column if holds_bytes else "",
        ),
        rows=_rows(store, names, suffix, options, holds_bytes),
        keeps_order=holds_bytes,
        counts_as_numbers=True,
        unlabelled="has no label" if options.label_column else "",
    )


def _is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type contains images or masks, instead of naming them."""
    if pa.types.is_struct(kind):
        return BYTES_FIELD in [kind.field(i).name for i in range(kind.num_fields)]
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _choose(table: str, there: Sequence[str], options: SourceOptions) -> SourceOptions:
    """Name the columns that are used: the label is empty if there is none or none is wanted."""
    listed = f"it has {', '.join(there) or 'none'}"
    for option in ("image_column", "label_column", "mask_column"):
        name = getattr(options, option)
        if name and name not in there:
            raise InputError(
                f"{table} has no column {name!r} (--{option.replace('_', '-')}): {listed}"
            )
    image, label = options.image_column, options.label_column
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
    return replace(options, image_column=image, label_column=label if options.labels else "")


def _schema(store: Store, name: str, suffix: str) -> pa.Schema:
    with readable(store, name), store.open(name) as file:
        if suffix == ".parquet":
            return pq.read_schema(file)
        return arrow_csv.read_csv(io.BytesIO(file.readline())).schema


def _rows(
    store: Store, names: Sequence[str], suffix: str, options: SourceOptions, holds_bytes: bool
) -> Iterator[Row]:
    found = False
    for name in names:
        with readable(store, name), store.open(name) as file:
            if holds_bytes:
                rows = _rows_of_bytes(name, file, options)
            else:
                rows = _rows_of_uris(store, name, _cells(file, suffix, options))
            for row in rows:
                found = True
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
        raise InputError(f"{store.where(name)} cannot be read: {message}") from error


Cells = tuple[str | None, str | None, str | None]
"""Image, label and mask of a row, as text."""


def _cells(file: IO[bytes], suffix: str, options: SourceOptions) -> Iterator[Cells]:
    if suffix == ".txt":
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="\n")
        for line in text:
            if line.strip():
                yield line.rstrip("\r\n"), None, None
        return
    if suffix == ".parquet":
        batches = pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=options.columns)
    else:
        convert = arrow_csv.ConvertOptions(
            include_columns=options.columns,
            column_types=dict.fromkeys(options.columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        batches = arrow_csv.open_csv(file, convert_options=convert)
    used = (options.image_column, options.label_column, options.mask_column)
    for batch in batches:
        columns = [
            batch.column(name).cast(pa.string()).to_pylist() if name else [None] * batch.num_rows
            for name in used
        ]
        yield from zip(*columns, strict=True)


def _rows_of_uris(store: Store, name: str, cells: Iterator[Cells]) -> Iterator[Row]:
    """The rows of a list; InputError names the list and the row, by its number from 1."""
    seen_buckets: set[str] = set()
    for number, (image, label, mask) in enumerate(cells, 1):
        try:
            row = _row_of_uri(store, name, image or "", seen_buckets)
            if mask:
                at = _row_of_uri(store, name, mask, seen_buckets)
                row["mask"] = at["uri"] or os.fsencode(at["source"])
                row["mask_bytes"] = at["num_bytes"]
        except InputError as error:
            raise InputError(f"{store.where(name)}, row {number}: {error}") from error
        row["label"] = label or None
        yield row


def _row_of_uri(store: Store, table: str, text: str, seen_buckets: set[str]) -> Row:
    """`source`, `uri` and `num_bytes` of an entry of a list; a local file must exist.

    The size of an object is -1: asking for each takes hours. Only the first object of each bucket
    is looked up, so that a wrong prefix fails at once.
    """
    source, uri = _source_and_uri(store, table, text)
    place, name = open_uri(store, uri)
    bucket = place.url.split("/")[2] if place.is_remote else ""
    num_bytes = -1 if bucket in seen_buckets else place.size(name)
    if num_bytes is None:
        raise InputError(f"{place.where(name)} does not exist or is not a file")
    if bucket:
        seen_buckets.add(bucket)
        num_bytes = -1
    encoded = None if uri == source else os.fsencode(uri)
    return {"source": source, "uri": encoded, "num_bytes": num_bytes}


def _source_and_uri(store: Store, table: str, text: str) -> tuple[str, str]:
    """Where an entry of a list lies: a path, absolute or relative to the list's folder, or a URL.

    The source is relative to the list's store if possible, else a URL without options.
    """
    if not text.strip():
        raise InputError("the image has no URI")
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


def _rows_of_bytes(name: str, file: IO[bytes], options: SourceOptions) -> Iterator[Row]:
    masked = _masked(pq.ParquetFile(file), options.mask_column)
    cells = _cells(file, ".parquet", replace(options, image_column="", mask_column=""))
    for number, ((_, label, _), has_mask) in enumerate(zip(cells, masked, strict=True)):
        yield {
            "source": f"{printable(name)}/{number:09d}",
            "num_bytes": -1,
            "uri": os.fsencode(name),
            "offset": number,
            "label": label or None,
            "mask_offset": number if has_mask else None,
        }


def _masked(table: pq.ParquetFile, column: str) -> Iterator[bool]:
    """Which rows have a mask; masks are read only if the file's statistics do not tell."""
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
        for batch in table.iter_batches(64, row_groups=[group], columns=[column]):
            yield from bytes_of(batch.column(column)).is_valid().to_pylist()


def bytes_of(cells: pa.Array) -> pa.Array:
    """The images or masks in a column, which may be structs, as the `datasets` library writes."""
    return pc.struct_field(cells, BYTES_FIELD) if pa.types.is_struct(cells.type) else cells
