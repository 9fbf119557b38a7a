"""Read one shard back: compare its tar, its manifest and its rejected list with each other."""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.statistics import GRID_SIDE, map_statistics
from pipeline.shardset.manifest import DatasetInfo, ShardInfo
from pipeline.shardset.schema import (
    JSON_MEMBER,
    LABEL_MEMBER,
    MANIFEST_SCHEMA,
    REJECTED_SCHEMA,
    SALIENCY_MEMBER,
    manifest_file,
    rejected_file,
    sample_key,
    shard_file,
)
from pipeline.storage.storage import Store, StoreError

MAX_NAMED = 20
"""How many problems of a kind are named; the rest is counted."""
JSON_COLUMNS = ("source", "width", "height", "label", "sha256")
Row = Mapping[str, Any]


@dataclass
class ShardReport:
    """What was found in a shard.

    Attributes:
        name: of the shard.
        problems: what is wrong, each with the file, and the sample where there is one.
        num_images: rows of the manifest.
        num_rejected: rows of the rejected list.
        num_bytes: size of the tar.
        digests: uint64, `source_digest` of every image and every rejected one.
    """

    name: str
    problems: list[str] = field(default_factory=list)
    num_images: int = 0
    num_rejected: int = 0
    num_bytes: int = 0
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))


def source_digest(source: str) -> int:
    """The 64 bits of a source's path that its key ends in."""
    return int(sample_key(source)[-16:], 16)


def at_most_named(problems: Iterable[str], where: str) -> Iterator[str]:
    """The first `MAX_NAMED` problems and, after them, the number of the others."""
    count = 0
    for count, problem in enumerate(problems, start=1):
        if count <= MAX_NAMED:
            yield problem
    if count > MAX_NAMED:
        yield f"{where}: and {count - MAX_NAMED} more problems"


def verify_shard(store: Store, shard: ShardInfo, info: DatasetInfo) -> ShardReport:
    """Read a shard back and name what is wrong with it.

    Args:
        store: of the shard set.
        shard: what dataset.json says of the shard.
        info: what it says of the set; its list of shards is not used.
    """
    problems: list[str] = []
    tar = _read(store, shard_file(shard.name), problems)
    rows = _rows(store, manifest_file(shard.name), MANIFEST_SCHEMA, problems)
    rejected = _rows(store, rejected_file(shard.name), REJECTED_SCHEMA, problems)
    if tar is not None:
        problems += _tar_problems(shard, info, tar, rows)
    named = (*(rows or ()), *(rejected or ()))
    return ShardReport(
        shard.name,
        list(at_most_named(problems, shard.name)),
        num_images=len(rows or ()),
        num_rejected=len(rejected or ()),
        num_bytes=len(tar or b""),
        digests=np.array([source_digest(row["source"]) for row in named], np.uint64),
    )


def _read(store: Store, name: str, problems: list[str]) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except StoreError as error:
        problems.append(str(error))
    return None


def _rows(
    store: Store,
    name: str,
    schema: Any,  # noqa: ANN401  # pyarrow has no types
    problems: list[str],
) -> list[Row] | None:
    data = _read(store, name, problems)
    if data is None:
        return None
    try:
        table = pq.read_table(io.BytesIO(data))
        table.validate(full=True)
        if table.schema.equals(schema):
            return list(table.to_pylist())
        problems.append(f"{name} has other columns than this version writes")
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        problems.append(f"{name} cannot be read as a parquet file: {_one_line(error)}")
    return None


def _tar_problems(
    shard: ShardInfo, info: DatasetInfo, tar: bytes, rows: list[Row] | None
) -> Iterator[str]:
    name = shard_file(shard.name)
    if len(tar) != shard.num_bytes:
        yield f"{name} has {len(tar)} bytes, dataset.json says {shard.num_bytes}"
    elif hashlib.sha256(tar).hexdigest() != shard.sha256:
        yield f"{name} has another checksum than dataset.json says"
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, ValueError) as error:
        yield f"{name} cannot be read as a tar: {_one_line(error)}"
        return
    for member, count in Counter(member.name for member in members).items():
        if count > 1:
            yield f"{name}, {member}: is there {count} times"
    if rows is None:
        return
    found = {member.name: member for member in members}
    for number, row in enumerate(rows):
        expected = {"shard": shard.name, "index": number, "key": sample_key(row["source"])}
        for problem in _sample_problems(row, expected, info, tar, found):
            yield f"{name}, {row['key']}{problem}"
    for member in found:
        yield f"{name}, {member}: is in no row of the manifest"


def _sample_problems(
    row: Row,
    expected: dict[str, object],
    info: DatasetInfo,
    tar: bytes,
    members: dict[str, tarfile.TarInfo],
) -> Iterator[str]:
    """Compare a row with the members of its sample, which are taken out of `members`.

    Args:
        row: of the manifest.
        expected: columns and what they should hold; the members add theirs.
        info: of the set.
        tar: the whole tar.
        members: by name.
    """
    columns = {row["image_ext"]: "image", SALIENCY_MEMBER: "saliency", JSON_MEMBER: "json"}
    for suffix in (*columns, *([] if row["label"] is None else [LABEL_MEMBER])):
        member = members.pop(f"{row['key']}.{suffix}", None)
        if member is None:
            yield f".{suffix}: is missing"
            continue
        content = tar[member.offset_data : member.offset_data + member.size]
        column = columns.get(suffix)
        if column:
            expected[f"{column}_offset"] = member.offset_data
            expected[f"{column}_length"] = member.size
        try:
            if column == "image":
                expected["height"], expected["width"] = decode_stored(content).shape[:2]
            elif column == "saliency":
                yield from _saliency_problems(row, info.saliency_size, decode_saliency(content))
            elif column == "json" and json.loads(content) != {n: row[n] for n in JSON_COLUMNS}:
                yield f".{suffix}: differs from the manifest"
            elif column is None and content != str(row["label"]).encode():
                yield f".{suffix}: is not label {row['label']}"
        except (ImageError, ValueError) as error:
            yield f".{suffix}: {_one_line(error)}"
    for name, value in expected.items():
        if row[name] != value:
            yield f": {name} is {value}, the manifest says {row[name]}"
    num_classes = len(info.class_names)
    if row["label"] not in (range(num_classes) if num_classes else (None,)):
        yield f": label {row['label']}, where there are {num_classes} classes"


def _saliency_problems(row: Row, size: int, levels: NDArray[np.uint8]) -> Iterator[str]:
    if len(levels) != size:
        yield f".{SALIENCY_MEMBER}: has {len(levels)} cells a side, not {size}"
        return
    now = map_statistics(levels)
    differences = (now.mean - row["saliency_mean"], now.std - row["saliency_std"])
    share = now.foreground_share - row["foreground_share"]
    # Another machine may round a patch at the threshold to the other side.
    if max(map(abs, differences)) > 1e-6 or abs(share) > 1.01 / GRID_SIDE**2:
        yield f".{SALIENCY_MEMBER}: is not the map that the manifest's statistics are of"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
