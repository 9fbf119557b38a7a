"""Check one shard: its digest, every image and map, and the rows of its manifest."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.foreground import GRID_SIDE, map_statistics
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, read_manifest, read_rejected
from pipeline.shardset.schema import MANIFEST_SCHEMA, REJECTED_SCHEMA, sample_key, shard_file
from pipeline.storage.base import Store, StoreError

MAX_NAMED = 20
"""How many problems of a kind are named; the others are counted."""
JSON_COLUMNS = ("source", "width", "height", "label", "sha256")
Row = dict[str, Any]


@dataclass
class ShardReport:
    """What was found in a shard.

    Attributes:
        problems: what is wrong, each with the file, and the sample if there is one.
        sources: of the manifest's rows and of the rejected images.
        num_rejected: rows of the rejected list.
        num_bytes: size of the tar.
    """

    problems: list[str]
    sources: list[str] = field(default_factory=list)
    num_rejected: int = 0
    num_bytes: int = 0


def verify_shard(store: Store, shard: ShardInfo, info: DatasetInfo) -> ShardReport:
    """Compare a shard with what dataset.json says of the shard and of the set."""
    name = shard_file(shard.name)
    problems: list[str] = []
    tar = None
    try:
        tar = store.read(name)
        if len(tar) != shard.num_bytes:
            problems.append(f"{name} has {len(tar)} bytes, dataset.json says {shard.num_bytes}")
        elif hashlib.sha256(tar).hexdigest() != shard.sha256:
            problems.append(f"{name} has another checksum than dataset.json says")
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except StoreError as error:
        problems.append(str(error))
    rows = _rows(read_manifest, store, shard, MANIFEST_SCHEMA, problems)
    rejected = _rows(read_rejected, store, shard, REJECTED_SCHEMA, problems)
    if len(rows) != shard.num_images:
        problems.append(
            f"the manifest of {shard.name} has {len(rows)} rows, dataset.json says "
            f"{shard.num_images}"
        )
    for index, row in enumerate(rows):
        try:
            found = row if tar is None else _found(row, index, shard, info, tar)
            wrong = [
                f"{column} is {value}, the manifest says {row[column]}"
                for column, value in found.items()
                if value != row[column]
            ]
        except (ImageError, ValueError) as error:
            wrong = [_one_line(error)]
        problems += [f"{name}, {row['key']}: {what}" for what in wrong]
    return ShardReport(
        list(at_most_named(problems, shard.name)),
        sources=[row["source"] for row in (*rows, *rejected)],
        num_rejected=len(rejected),
        num_bytes=len(tar or b""),
    )


def _rows(
    read: Callable[[Store, str], pa.Table],
    store: Store,
    shard: ShardInfo,
    schema: pa.Schema,
    problems: list[str],
) -> list[Row]:
    try:
        table = read(store, shard.name)
        table.validate(full=True)
        if table.schema.equals(schema):
            return list(table.to_pylist())
        problems.append(f"a table of {shard.name} has other columns than this version writes")
    except (pa.ArrowException, ValueError) as error:
        problems.append(_one_line(error))
    return []


def _found(row: Row, index: int, shard: ShardInfo, info: DatasetInfo, tar: bytes) -> Row:
    """Columns of a row as the shard and the sample's members in the tar have them.

    Raises:
        ImageError, ValueError: a member cannot be used; says why.
    """

    def member(column: str) -> bytes:
        offset = row[f"{column}_offset"]
        return tar[offset : offset + row[f"{column}_length"]]

    found: Row = {"shard": shard.name, "index": index, "key": sample_key(row["source"])}
    file = f"{row['key']}.{row['image_ext']}"
    if not tar.startswith(f"{file}\0".encode(), row["image_offset"] - tarfile.BLOCKSIZE):
        raise ValueError(f"{file} is not at image_offset")
    num_classes = len(info.class_names)
    if row["label"] not in (range(num_classes) if num_classes else (None,)):
        raise ValueError(f"label {row['label']}, where there are {num_classes} classes")
    try:
        described = dict(json.loads(member("json")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"its .json cannot be read: {error}") from error
    found |= {column: described.get(column) for column in JSON_COLUMNS}
    height, width = decode_stored(member("image")).shape[:2]
    if (height, width) != (found["height"], found["width"]):
        raise ValueError(f"its image is {width} x {height}, its .json has another size")
    levels = decode_saliency(member("saliency"))
    if len(levels) != info.saliency_size:
        raise ValueError(f"its map has {len(levels)} cells a side, not {info.saliency_size}")
    now = map_statistics(levels)
    differences = (now.mean - row["saliency_mean"], now.std - row["saliency_std"])
    share = now.foreground_share - row["foreground_share"]
    # another machine may round a patch at the threshold to the other side
    if max(map(abs, differences)) > 1e-6 or abs(share) > 1.01 / GRID_SIDE**2:
        raise ValueError("its map is not the one that the manifest's statistics are of")
    return found


def at_most_named(problems: Iterable[str], where: str) -> Iterator[str]:
    """The first `MAX_NAMED` problems and, after them, the number of the others."""
    problems = iter(problems)
    yield from islice(problems, MAX_NAMED)
    rest = sum(1 for _ in problems)
    if rest:
        yield f"{where}: and {rest} more problems"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
