"""Lists of images: text, CSV or parquet with a column of URIs, parquet with the images' bytes."""

import io
import os
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.sources.listing import BATCH_ROWS, DataPlace, Listing, RowBuffer
from pipeline.sources.parquet import Columns, is_bytes, readable, row_batches
from pipeline.sources.uris import UriResolver
from pipeline.storage.storage import Store, printable

IMAGE_COLUMNS = ("image", "uri", "url", "path", "file", "filename", "file_name")
LABEL_COLUMNS = ("label", "cls")


def list_tables(
    store: Store,
    names: Sequence[str],
    *,
    labels: bool,
    image_column: str = "",
    label_column: str = "",
    mask_column: str = "",
) -> Listing:
    """List the images that text files, CSV or parquet tables name or hold.

    Args:
        store: where the tables lie; relative URIs are relative to their table's folder.
        names: of the tables, all of one kind.
        labels: whether labels are wanted.
        image_column: of URIs or of bytes; empty: found by its name.
        label_column: empty: `label` or `cls`, where there is one.
        mask_column: of URIs or of bytes, as the images'; empty: no masks.

    Raises:
        InputError: no such file or column, a table that cannot be read; while batches are read
            also: an empty or unreadable URI, no rows.
    """
    suffix = os.path.splitext(names[0])[1].lower()
    columns = Columns("", "", "")
    holds_bytes = False
    if suffix == ".txt":
        if image_column or label_column or mask_column:
            raise InputError(f"{store.where(names[0])}: a text list has no columns")
    else:
        schema = _schema(store, names[0], suffix)
        columns = _choose(
            store.where(names[0]), schema.names, labels, image_column, label_column, mask_column
        )
        holds_bytes = is_bytes(schema.field(columns.image).type)
        if columns.mask and is_bytes(schema.field(columns.mask).type) != holds_bytes:
            raise InputError(
                f"{store.where(names[0])}: {columns.image} and {columns.mask} have to be both "
                "URIs or both bytes"
            )
    return Listing(
        place=DataPlace(
            store=store,
            masks=store,
            image_column=columns.image if holds_bytes else "",
            mask_column=columns.mask if holds_bytes else "",
        ),
        batches=(
            row_batches(store, names, columns)
            if holds_bytes
            else _uri_batches(store, names, suffix, columns)
        ),
        keeps_order=holds_bytes,
        counts_as_numbers=True,
        unlabelled="has no label" if columns.label else "",
        holds_masks=bool(columns.mask),
    )


def _choose(
    place: str, there: Sequence[str], labels: bool, image: str, label: str, mask: str
) -> Columns:
    listed = f"it has {', '.join(there) or 'none'}"
    for option, name in (("image", image), ("label", label), ("mask", mask)):
        if name and name not in there:
            raise InputError(f"{place} has no column {name!r} (--{option}-column): {listed}")
    if not image:
        found = [name for name in IMAGE_COLUMNS if name in there]
        if len(found) != 1:
            which = f"any of {', '.join(found)}" if found else "none that is known by its name"
            raise InputError(
                f"{place}: the column of images may be {which}: name it with --image-column "
                f"({listed})"
            )
        image = found[0]
    if labels and not label:
        label = next((name for name in LABEL_COLUMNS if name in there and name != image), "")
    return Columns(image, label if labels else "", mask)


def _schema(store: Store, name: str, suffix: str) -> pa.Schema:
    with readable(store, name):
        if suffix == ".parquet":
            with store.open(name) as file:
                return pq.read_schema(file)
        with store.open(name) as file:
            head = file.readline()
        return arrow_csv.read_csv(io.BytesIO(head)).schema


def _uri_batches(
    store: Store, names: Sequence[str], suffix: str, columns: Columns
) -> Iterator[pa.RecordBatch]:
    """Rows of tables that name images."""
    rows = RowBuffer()
    found = False
    for name in names:
        resolver = UriResolver(store, name)
        for number, (image, label, mask) in enumerate(_cells(store, name, suffix, columns), 1):
            found = True
            image_at = resolver.resolve(image, number)
            more: dict[str, object] = {}
            if mask:
                mask_at = resolver.resolve(mask, number)
                more = {"mask": mask_at.uri or os.fsencode(mask_at.source)}
                more["mask_bytes"] = mask_at.num_bytes
            rows.add(
                printable(image_at.source),
                image_at.num_bytes,
                uri=image_at.uri,
                label=label or None,
                **more,
            )
            if rows.is_full:
                yield rows.take()
    if not found:
        raise InputError(f"no images in {store.where(names[0])}: it has no rows")
    yield rows.take()


def _cells(
    store: Store, name: str, suffix: str, columns: Columns
) -> Iterator[tuple[str | None, str | None, str | None]]:
    """Image, label and mask of each row, as text."""
    with readable(store, name):
        if suffix == ".txt":
            with (
                store.open(name) as binary,
                io.TextIOWrapper(
                    binary, encoding="utf-8-sig", errors="surrogateescape", newline="\n"
                ) as text,
            ):
                for line in text:
                    stripped = line.rstrip("\r\n")
                    if stripped.strip():
                        yield stripped, None, None
            return
        for batch in _tables(store, name, suffix, columns):
            texts = [
                batch.column(column).cast(pa.string()).to_pylist()
                if column
                else [None] * batch.num_rows
                for column in (columns.image, columns.label, columns.mask)
            ]
            yield from zip(*texts, strict=True)


def _tables(store: Store, name: str, suffix: str, columns: Columns) -> Iterator[pa.RecordBatch]:
    with store.open(name) as file:
        if suffix == ".parquet":
            table = pq.ParquetFile(file)
            yield from table.iter_batches(batch_size=BATCH_ROWS, columns=columns.names)
            return
        options = arrow_csv.ConvertOptions(
            include_columns=columns.names,
            column_types=dict.fromkeys(columns.names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        )
        yield from arrow_csv.open_csv(file, convert_options=options)
