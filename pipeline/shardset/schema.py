"""The names of a shard set: its folders, the members of a sample, the manifest's columns."""

import re
from hashlib import blake2b
from pathlib import Path, PurePosixPath

import pyarrow as pa

SCHEMA_VERSION = 1
SALIENCY_SIZE = 56
"""Side of the stored saliency map in cells: a crop of a third of a side still spans 18 of them."""

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
SALIENCY_MEMBER = "saliency.png"
JSON_MEMBER = "json"
LABEL_MEMBER = "cls"

DATASET_FILE = "dataset.json"
PLAN_FILE = "plan.json"
REPORT_FILE = "report.html"
"""A page about the set, which may lie beside it and is no part of it."""
SHARDS_FOLDER = "shards"
MANIFEST_FOLDER = "manifest"
REJECTED_FOLDER = "rejected"

MAX_STEM = 64

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("image_ext", pa.string(), nullable=False),
        pa.field("image_offset", pa.int64(), nullable=False),
        pa.field("image_length", pa.int64(), nullable=False),
        pa.field("saliency_offset", pa.int64(), nullable=False),
        pa.field("saliency_length", pa.int64(), nullable=False),
        pa.field("json_offset", pa.int64(), nullable=False),
        pa.field("json_length", pa.int64(), nullable=False),
        pa.field("label", pa.int64(), nullable=True),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("saliency_mean", pa.float64(), nullable=False),
        pa.field("saliency_std", pa.float64(), nullable=False),
        pa.field("foreground_share", pa.float64(), nullable=False),
    ]
)
"""Columns of `manifest/*.parquet`, one row per sample of the shard.

Offsets and lengths are bytes in the tar, of the member's content; width and height are pixels
after EXIF; sha256 is that of the source's bytes; saliency mean and std are of the stored map in
[0, 1]; foreground_share is the share of a 7 x 7 grid's patches that are foreground.
"""

REJECTED_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Columns of `rejected/*.parquet`, one row per image whose bytes could not be used."""


def sample_key(source: str) -> str:
    """The key of a sample in its tar: readable, unique, without dots or slashes.

    Args:
        source: path relative to the data's root, with forward slashes.

    Returns:
        `<stem, at most 64 ASCII letters, digits, _ and ->-<16 hex digits of the path's blake2b>`.
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


def shard_path(root: Path, name: str) -> Path:
    """Where the tar of a shard lies in a local set."""
    return root / shard_file(name)


def manifest_path(root: Path, name: str) -> Path:
    """Where the manifest of a shard lies in a local set."""
    return root / manifest_file(name)


def rejected_path(root: Path, name: str) -> Path:
    """Where the list of images rejected from a shard lies in a local set."""
    return root / rejected_file(name)
