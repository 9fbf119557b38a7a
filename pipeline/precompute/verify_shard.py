"""One shard read back: its tar, members, manifest and rejected list against each other.

Nothing is believed of one file that another can tell, and everything that is wrong is named.
"""

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.core.errors import ImageError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.saliency.statistics import GRID_SIDE, map_statistics
from pipeline.shardset.manifest import RECORD_KEY, ShardInfo
from pipeline.shardset.schema import (
    IMAGE_EXTENSIONS,
    JSON_MEMBER,
    LABEL_MEMBER,
    MANIFEST_FOLDER,
    MANIFEST_SCHEMA,
    REJECTED_FOLDER,
    REJECTED_SCHEMA,
    SALIENCY_MEMBER,
    SHARDS_FOLDER,
    sample_key,
)
from pipeline.storage.storage import Store, StoreError

MAX_PROBLEMS = 20
"""How many problems of one shard are named; the rest is counted."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What dataset.json says of a shard and of the set that it belongs to.

    Attributes:
        store: the shard set.
        name: of the shard.
        shard: its size and digest; None where dataset.json does not tell.
        num_classes: 0 where there are no labels; None where dataset.json does not tell.
        saliency_size: side of the maps; None as above.
        plan_digest: of the plan that the shard belongs to; None as above.
    """

    store: Store
    name: str
    shard: ShardInfo | None = None
    num_classes: int | None = None
    saliency_size: int | None = None
    plan_digest: str | None = None


@dataclass
class ShardReport:
    """What was found in a shard.

    Attributes:
        name: of the shard.
        problems: what is wrong, each with the file, and the sample where there is one.
        num_images: rows of the manifest.
        num_rejected: rows of the rejected list.
        num_bytes: size of the tar.
        digests: uint64, of the sources of all rows and of all rejected images: their identity.
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


def verify_shard(expected: Expected) -> ShardReport:
    """Read a shard back and name what is wrong with it."""
    report = ShardReport(expected.name)
    problems = report.problems
    tar = _read(expected, f"{SHARDS_FOLDER}/{expected.name}.tar", problems)
    manifest = _table(expected, MANIFEST_FOLDER, MANIFEST_SCHEMA, problems)
    rejected = _table(expected, REJECTED_FOLDER, REJECTED_SCHEMA, problems)
    rows = [] if manifest is None else manifest.to_pylist()
    reasons = [] if rejected is None else rejected.to_pylist()
    sources = [row["source"] for row in (*rows, *reasons)]
    report.num_images, report.num_rejected = len(rows), len(reasons)
    report.digests = np.array([source_digest(source) for source in sources], np.uint64)
    if manifest is not None:
        problems += _check_record(expected, manifest, None if rejected is None else len(reasons))
        problems += _check_rows(expected, rows)
    problems += [
        f"{REJECTED_FOLDER}/{expected.name}.parquet: {row['source']} has no reason"
        for row in reasons
        if not row["reason"]
    ]
    if tar is not None:
        report.num_bytes = len(tar)
        problems += _check_tar(expected, tar, rows if manifest is not None else None)
    if len(problems) > MAX_PROBLEMS:
        rest = len(problems) - MAX_PROBLEMS
        report.problems = [*problems[:MAX_PROBLEMS], f"{expected.name}: and {rest} more problems"]
    return report


def _read(expected: Expected, name: str, problems: list[str]) -> bytes | None:
    try:
        return expected.store.read(name)
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except StoreError as error:
        problems.append(str(error))
    return None


def _table(
    expected: Expected,
    folder: str,
    schema: Any,  # noqa: ANN401  (pyarrow has no types)
    problems: list[str],
) -> Any:  # noqa: ANN401
    name = f"{folder}/{expected.name}.parquet"
    data = _read(expected, name, problems)
    if data is None:
        return None
    try:
        table = pq.read_table(io.BytesIO(data))
        table.validate(full=True)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        problems.append(f"{name} is no parquet file that can be read: {_one_line(error)}")
        return None
    if not table.schema.equals(schema):
        problems.append(f"{name} has other columns than this version writes")
        return None
    return table


def _check_record(expected: Expected, manifest: Any, num_rejected: int | None) -> Iterator[str]:  # noqa: ANN401
    name = f"{MANIFEST_FOLDER}/{expected.name}.parquet"
    try:
        record = json.loads((manifest.schema.metadata or {})[RECORD_KEY])
        shard = ShardInfo(**record["shard"])
        plan_digest, listed = record["plan_digest"], record["num_rejected"]
    except (ValueError, KeyError, TypeError) as error:
        yield f"{name} has no record of its shard ({_one_line(error)})"
        return
    if expected.shard is not None and shard != expected.shard:
        yield f"{name}: its record of the shard is not that of dataset.json"
    if expected.plan_digest is not None and plan_digest != expected.plan_digest:
        yield f"{name} was made by another plan than dataset.json says"
    if shard.name != expected.name or shard.num_images != manifest.num_rows:
        yield (
            f"{name} has {manifest.num_rows} rows, its record says {shard.num_images} of "
            f"{shard.name}"
        )
    if num_rejected is not None and listed != num_rejected:
        yield (
            f"{REJECTED_FOLDER}/{expected.name}.parquet has {num_rejected} rows, the manifest "
            f"says {listed}"
        )


def _check_rows(expected: Expected, rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the rows of a manifest say of themselves."""
    name = f"{MANIFEST_FOLDER}/{expected.name}.parquet"
    for number, row in enumerate(rows):
        key = row["key"]
        if row["shard"] != expected.name or row["index"] != number:
            yield f"{name}, {key}: is row {row['index']} of {row['shard']}, not {number}"
        if key != sample_key(row["source"]):
            yield f"{name}, {key}: is not the key of {row['source']}"
        if expected.num_classes is not None:
            label, last = row["label"], expected.num_classes - 1
            if (label is None) != (last < 0) or (label is not None and not 0 <= label <= last):
                yield f"{name}, {key}: label {label}, where there are {last + 1} classes"


def _check_tar(expected: Expected, tar: bytes, rows: list[dict[str, Any]] | None) -> Iterator[str]:
    name = f"{SHARDS_FOLDER}/{expected.name}.tar"
    if expected.shard is not None:
        if len(tar) != expected.shard.num_bytes:
            yield f"{name} has {len(tar)} bytes, dataset.json says {expected.shard.num_bytes}"
        elif hashlib.sha256(tar).hexdigest() != expected.shard.sha256:
            yield f"{name} has another checksum than dataset.json says"
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            members = archive.getmembers()
    except (tarfile.TarError, ValueError) as error:
        yield f"{name} is no tar that can be read: {_one_line(error)}"
        return
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512 if members else 0
    if any(tar[end:]) or len(tar) - end < 2 * tarfile.BLOCKSIZE:
        yield f"{name} does not end as a tar ends, behind {len(members)} members"
    for member, count in Counter(member.name for member in members).items():
        if count > 1:
            yield f"{name}, {member}: is there {count} times"
    if rows is None:
        return
    found = {member.name: member for member in members}
    for row in rows:
        yield from _check_sample(expected, name, tar, row, found)
    for member in found:
        yield f"{name}, {member}: is in no row of the manifest"


def _check_sample(
    expected: Expected,
    name: str,
    tar: bytes,
    row: Mapping[str, Any],
    found: dict[str, tarfile.TarInfo],
) -> Iterator[str]:
    """Compare the members of a sample with its row; takes them out of `found`."""
    key = row["key"]
    content: dict[str, bytes] = {}
    spans = {row["image_ext"]: "image", SALIENCY_MEMBER: "saliency", JSON_MEMBER: "json"}
    if row["label"] is not None:
        spans[LABEL_MEMBER] = ""
    for suffix, span in spans.items():
        member = found.pop(f"{key}.{suffix}", None)
        if member is None or not member.isreg():
            yield f"{name}, {key}.{suffix}: is missing"
            continue
        where = (member.offset_data, member.size)
        if span and where != (row[f"{span}_offset"], row[f"{span}_length"]):
            yield f"{name}, {key}.{suffix}: lies elsewhere than the manifest says"
        content[suffix] = tar[where[0] : sum(where)]
    if row["image_ext"] not in IMAGE_EXTENSIONS:
        yield f"{name}, {key}: {row['image_ext']} is no image suffix of a shard"
    yield from (f"{name}, {key}{wrong}" for wrong in _check_content(expected, row, content))


def _check_content(
    expected: Expected, row: Mapping[str, Any], content: Mapping[str, bytes]
) -> Iterator[str]:
    ext = row["image_ext"]
    if ext in content:
        try:
            height, width = decode_stored(content[ext]).shape[:2]
        except ImageError as error:
            yield f".{ext}: {error}"
        else:
            if (width, height) != (row["width"], row["height"]):
                yield f".{ext}: is {width} x {height}, not {row['width']} x {row['height']}"
    if SALIENCY_MEMBER in content:
        yield from _check_saliency(expected, row, content[SALIENCY_MEMBER])
    described = {name: row[name] for name in ("source", "width", "height", "label", "sha256")}
    try:
        if JSON_MEMBER in content and json.loads(content[JSON_MEMBER]) != described:
            yield f".{JSON_MEMBER}: says otherwise than the manifest"
    except ValueError as error:
        yield f".{JSON_MEMBER}: {_one_line(error)}"
    if content.get(LABEL_MEMBER, str(row["label"]).encode()) != str(row["label"]).encode():
        yield f".{LABEL_MEMBER}: is not label {row['label']}"


def _check_saliency(expected: Expected, row: Mapping[str, Any], data: bytes) -> Iterator[str]:
    try:
        levels = decode_saliency(data)
    except ImageError as error:
        yield f".{SALIENCY_MEMBER}: {error}"
        return
    if expected.saliency_size not in (None, len(levels)):
        yield f".{SALIENCY_MEMBER}: has {len(levels)} cells a side, not {expected.saliency_size}"
        return
    now = map_statistics(levels)
    wrong = abs(now.mean - row["saliency_mean"]) > 1e-6 or abs(now.std - row["saliency_std"]) > 1e-6
    # another machine may round a patch that lies on the threshold to the other side
    if wrong or abs(now.foreground_share - row["foreground_share"]) > 1.01 / GRID_SIDE**2:
        yield f".{SALIENCY_MEMBER}: is not the map that the manifest's statistics are of"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
