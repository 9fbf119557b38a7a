"""The names in a shard set: its files, the members of a sample, the columns of the manifest."""

import re
from hashlib import blake2b
from pathlib import PurePosixPath

import pyarrow as pa

SCHEMA_VERSION = 1
SALIENCY_SIZE = 56
"""Side of the stored saliency map in cells; a crop of a third of a side still has 18 of them."""

SALIENCY_MEMBER = "saliency.png"
JSON_MEMBER = "json"
LABEL_MEMBER = "cls"
JSON_COLUMNS = ("source", "width", "height", "label", "sha256")
"""What a sample's .json says; the label is null if there is none."""

DATASET_FILE = "dataset.json"
PLAN_FILE = "plan.json"
REPORT_FILE = "report.html"
"""A page about the set, which may lie beside it and is not part of it."""
REMOVAL_FILE = "removal.json"
"""There while images are being removed (`pipeline.precompute.remove`)."""
SHARDS_FOLDER = "shards"
MANIFEST_FOLDER = "manifest"
REJECTED_FOLDER = "rejected"

MAX_STEM = 64


def _required(**types: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=False) for name, kind in types.items()]


MANIFEST_SCHEMA = pa.schema(
    [
        *_required(key=pa.string(), shard=pa.string(), index=pa.int64(), image_ext=pa.string()),
        *_required(image_offset=pa.int64(), image_length=pa.int64()),
        *_required(saliency_offset=pa.int64(), saliency_length=pa.int64()),
        *_required(json_offset=pa.int64(), json_length=pa.int64()),
        pa.field("label", pa.int64()),
        *_required(width=pa.int64(), height=pa.int64(), source=pa.string(), sha256=pa.string()),
        *_required(saliency_mean=pa.float64(), saliency_std=pa.float64()),
        *_required(foreground_share=pa.float64()),
        pa.field("separability", pa.float64()),
    ]
)
"""Columns of `manifest/*.parquet`, one row per sample of the shard.

Offsets and lengths are bytes of a member's content in the tar. Width and height are pixels after
EXIF. sha256 is that of the source file. Mean and std are of the stored map in [0, 1].
foreground_share is the share of foreground patches in a 7 x 7 grid over the whole image, and
separability says how clearly objects stand out in that grid (`pipeline.saliency.foreground`); null
in sets of earlier versions, whose manifests lack the column.
"""

REJECTED_SCHEMA = pa.schema(_required(source=pa.string(), reason=pa.string()))
"""Columns of `rejected/*.parquet`, one row per image whose bytes cannot be used."""


def sample_key(source: str) -> str:
    """The key of a sample in its tar, from its source: unique, without dots or slashes.

    It is `<stem, at most 64 ASCII letters, digits, _ and ->-<16 hex digits of blake2b(source)>`.
    """
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", PurePosixPath(source).stem)[:MAX_STEM]
    # surrogateescape: file names on Linux are bytes and need not be valid UTF-8
    digest = blake2b(source.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{stem}-{digest}"


def shard_name(number: int) -> str:
    """The name of shard `number`, without folder or suffix."""
    return f"shard-{number:06d}"


def shard_file(name: str) -> str:
    """The tar of a shard, relative to the shard set."""
    return f"{SHARDS_FOLDER}/{name}.tar"


def manifest_file(name: str) -> str:
    """The manifest of a shard, relative to the shard set."""
    return f"{MANIFEST_FOLDER}/{name}.parquet"


def rejected_file(name: str) -> str:
    """The list of images rejected from a shard, relative to the shard set."""
    return f"{REJECTED_FOLDER}/{name}.parquet"
