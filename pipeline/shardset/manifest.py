"""The description of a shard set: one parquet file per shard, and dataset.json, written last.

A set is complete if it has a dataset.json.
"""

import dataclasses
import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix
from pipeline.core.plain import fitted, parse
from pipeline.images.pixel_format import PLAIN, PixelFormat
from pipeline.shardset.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    MANIFEST_SCHEMA,
    REJECTED_SCHEMA,
    SCHEMA_VERSION,
    SHARDS_FOLDER,
    manifest_file,
    rejected_file,
    shard_file,
)
from pipeline.storage.parquet import as_text, open_parquet
from pipeline.storage.storage import Place, open_store
from pipeline.storage.store import reason

RECORD_KEY = b"salmask"
AGAIN = "run jobs/precompute.py again"
FILES_LOOKED_AT = 1000
"""To see what a folder that is no shard set holds."""
RUN_FILE = "metrics.jsonl"
"""What every run has, and no shard set."""
TAR = re.compile(r"[^/]+\.tar")
"""A tar of others; those of a set lie in a folder of their own."""
FILE_NAME, DIGEST = re.compile(r"\w[\w.-]*"), re.compile(r"[0-9a-f]{64}")
MOST_ROWS = 1 << 22
"""Of a manifest, which is of one shard."""
Rows = Sequence[dict[str, Any]]


class SetError(InputError):
    """A file of a shard set is missing, damaged, or of another version."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: its name without suffix, its rows, and the size and digest of its tar."""

    name: str
    num_images: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a manifest's metadata says of its shard: enough to tell whether the shard is whole."""

    shard: ShardInfo
    plan_digest: str
    num_rejected: int


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """A complete shard set, as dataset.json describes it.

    Attributes:
        shards: in the order that numbers the samples.
        class_names: a label is an index into them; empty if there are no labels.
        saliency: name of the source and all its parameters.
        saliency_size: side of the stored maps in cells.
        plan_digest: of everything that decides the shards' content.
        num_rejected: images whose bytes cannot be used.
        versions: of the libraries that decide bytes.
        pixels: channels, range and statistics of the images.
    """

    schema_version: int
    shards: tuple[ShardInfo, ...]
    class_names: tuple[str, ...]
    saliency: dict[str, object]
    saliency_size: int
    plan_digest: str
    num_rejected: int
    versions: dict[str, str]
    pixels: PixelFormat = PLAIN

    @property
    def num_images(self) -> int:
        """Samples in all shards."""
        return sum(shard.num_images for shard in self.shards)

    @property
    def has_labels(self) -> bool:
        """Whether every sample has a class label."""
        return bool(self.class_names)


def write_dataset_info(place: Place, info: DatasetInfo) -> None:
    """Write dataset.json; everything else is made to survive a power cut before and after."""
    fields = dataclasses.asdict(info)
    if info.pixels == PLAIN:  # as before there was a choice
        del fields["pixels"]
    text = json.dumps(fields, indent=1, sort_keys=True)
    store = open_store(place)
    store.settle()
    store.write(DATASET_FILE, text.encode() + b"\n")
    store.settle()


def dataset_info(fields: dict[str, Any]) -> DatasetInfo:
    """The description that dataset.json has these fields of; ValueError where it cannot be one."""
    info = fitted(DatasetInfo, fields)
    "".join(info.class_names).encode()  # halves of characters cannot be shown
    for shard in info.shards:  # names and digests become names of files
        if not (FILE_NAME.fullmatch(shard.name) and DIGEST.fullmatch(shard.sha256)):
            raise ValueError(f"{shard.name!r} is no name of a shard, or has no sha256")
        if not 0 <= shard.num_images * tarfile.BLOCKSIZE <= shard.num_bytes < 1 << 63:
            raise ValueError(f"{shard.num_images} images do not fit into {shard.name}")
    return info


def load_dataset_info(place: Place) -> DatasetInfo:
    """Read dataset.json of a complete shard set.

    Raises:
        SetError: no such folder, an unfinished set, a damaged file, another schema version.
    """
    store = open_store(place)
    try:
        data = store.read(DATASET_FILE)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not store.is_there():
            raise SetError(
                f"no shards at {store.url}: no such folder (run jobs/precompute.py)"
            ) from error
        missing = f"no complete shard set at {store.url}: {DATASET_FILE} is missing"
        names = [file.name for file in islice(store.files(), FILES_LOOKED_AT)]
        if RUN_FILE in names:
            raise SetError(
                f"{store.url} is a run, not a shard set: name the set that it trained on"
            ) from error
        if any(has_image_suffix(name) or TAR.fullmatch(name) for name in names):
            raise SetError(
                f"{missing}, but there are images: make shards of them first "
                f"(jobs/precompute.py --data {store.url} --out SHARDS)"
            ) from error
        raise SetError(
            f"{missing} (run jobs/precompute.py with this folder as --out until it finishes)"
        ) from error
    try:
        fields = parse(data)
        version = fields["schema_version"]
        if version == SCHEMA_VERSION:
            return dataset_info(fields)
    except (ValueError, KeyError, TypeError) as error:
        where = store.where(DATASET_FILE)
        raise SetError(f"{where} is damaged ({error}): delete it and {AGAIN}") from error
    raise SetError(
        f"{store.url} has shards of schema version {version}, this program reads version "
        f"{SCHEMA_VERSION}: run jobs/precompute.py into a new folder"
    )


def check_shards(place: Place, info: DatasetInfo) -> None:
    """Raise SetError unless every shard has a manifest and the size that dataset.json says."""
    store = open_store(place)
    folders = SHARDS_FOLDER, MANIFEST_FOLDER
    sizes = {file.name: file.num_bytes for folder in folders for file in store.files(folder)}
    for shard in info.shards:
        tar, manifest = shard_file(shard.name), manifest_file(shard.name)
        for kind, name in (("shard", tar), ("manifest", manifest)):
            if name not in sizes:
                raise SetError(f"{kind} {store.where(name)} is missing: {AGAIN}")
        if sizes[tar] != shard.num_bytes:
            raise SetError(
                f"shard {store.where(tar)} is damaged: {sizes[tar]} bytes instead of "
                f"{shard.num_bytes} ({AGAIN})"
            )


def write_rejected(place: Place, shard: str, rows: Rows) -> None:
    """Write the list of images rejected from a shard; an empty list is a file too."""
    _write_table(place, rejected_file(shard), rows, REJECTED_SCHEMA)


def write_manifest(place: Place, record: ShardRecord, rows: Rows) -> None:
    """Write a shard's manifest: its rows, and its record in the file's metadata."""
    metadata = {RECORD_KEY: json.dumps(dataclasses.asdict(record), sort_keys=True).encode()}
    schema = MANIFEST_SCHEMA.with_metadata(metadata)
    _write_table(place, manifest_file(record.shard.name), rows, schema)


def _write_table(place: Place, name: str, rows: Rows, schema: pa.Schema) -> None:
    with open_store(place).new_file(name) as file:
        pq.write_table(pa.Table.from_pylist(list(rows), schema), file)


def read_record(place: Place, shard: str) -> ShardRecord | None:
    """Read the record of a shard; None if there is no manifest that can be read."""
    try:
        data = open_store(place).read(manifest_file(shard))
    except FileNotFoundError:
        return None
    try:
        metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
        return fitted(ShardRecord, parse(metadata[RECORD_KEY]))
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return None


def read_rejected(place: Place, shard: str) -> pa.Table:
    """Read the list of images rejected from a shard; SetError if it cannot be read."""
    return _read_table(place, rejected_file(shard), REJECTED_SCHEMA, "list of rejected images")


def read_manifest(place: Place, shard: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read rows of a shard's manifest; SetError if it cannot be read."""
    return _read_table(place, manifest_file(shard), MANIFEST_SCHEMA, "manifest", columns)


def _read_table(
    place: Place, name: str, schema: pa.Schema, what: str, columns: Sequence[str] | None = None
) -> pa.Table:
    store = open_store(place)
    wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
    try:
        data = pa.BufferReader(store.read(name))
        file = open_parquet(data)
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        if (rows := sum(group.num_rows for group in groups)) > MOST_ROWS:
            raise pa.ArrowInvalid(f"{rows} rows, wanted at most {MOST_ROWS}")
        # Not `read_table`, which imports pyarrow.dataset and with it pandas.
        table = file.read(columns, use_threads=False)
        for field in wanted:  # an earlier version wrote no such column
            if field.name not in file.schema_arrow.names and field.nullable:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table if columns is None else table.select(columns)
        table.validate(full=True)
        for number, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                chunks = [as_text(chunk) for chunk in table.column(number).chunks]
                kind = field.with_type(pa.string())
                table = table.set_column(number, kind, pa.chunked_array(chunks, pa.string()))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        why = reason(error)
        raise SetError(f"{what} {store.where(name)} cannot be read ({why}): {AGAIN}") from error
    if not table.schema.equals(wanted):
        raise SetError(f"{what} {store.where(name)} has other columns than this version writes")
    return table
