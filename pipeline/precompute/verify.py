"""Read a shard set back and name everything that is wrong with it.

Every shard is checked by itself, on all cores: digest, decoding, the manifest's rows. Then all
sources are compared with those of the plans, and the files with those that belong there.
"""

import hashlib
import json
import os
import tarfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.child_process import Child, ChildDied
from pipeline.core.errors import ImageError, InputError
from pipeline.core.progress import say, track
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.amend import versions_file
from pipeline.precompute.plan import plan_file, planned_shards, read_plans, rows_file
from pipeline.saliency.foreground import GRID_SIDE, map_statistics
from pipeline.shardset.manifest import (
    DatasetInfo,
    SetError,
    ShardInfo,
    load_dataset_info,
    read_manifest,
    read_rejected,
)
from pipeline.shardset.schema import (
    DATASET_FILE,
    JSON_COLUMNS,
    REPORT_FILE,
    manifest_file,
    rejected_file,
    sample_key,
    shard_file,
)
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from pipeline.storage.storage import Place, open_store
from pipeline.storage.store import Store, StoreError, reason

MAX_NAMED = 20
"""How many problems of a kind are named; the others are counted."""
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Read a shard set back and name everything that is wrong with it.

    Attributes:
        verify: Folder or bucket (s3://, gs://, az://) of the shard set.
        processes: How many shards are read at once, 0 or more; 0: one for each core.
    """

    verify: str | Path
    processes: int = 0

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise InputError(f"processes must be at least 0, got {self.processes}")


@dataclass
class ShardReport:
    """What was found in a shard: its sources are those of its manifest and its rejected list."""

    problems: list[str]
    sources: list[str] = field(default_factory=list)
    num_rejected: int = 0
    num_bytes: int = 0


def verify_set(place: Place, processes: int = 0) -> list[str]:
    """Read a shard set back; see `VerifyConfig`. Nothing is written to it.

    Returns:
        What is wrong, one line each; empty if nothing is. Without dataset.json the set is not
        complete, and its shards are not read: the next run of the job checks them.

    Raises:
        InputError: there is no such folder, or the place cannot be reached.
    """
    store = open_store(place)
    if not store.is_there():
        raise InputError(f"no shards at {store.url}: no such folder")
    started = time.monotonic()
    try:
        info = load_dataset_info(store)
    except SetError as error:
        return [str(error)]
    reports = _read_shards(store, info, processes or os.cpu_count() or 1)
    num_rejected = sum(report.num_rejected for report in reports)
    problems = [problem for report in reports for problem in report.problems]
    if info.num_rejected != num_rejected:
        said = f"num_rejected is {info.num_rejected}, the lists have {num_rejected}"
        problems.append(f"{DATASET_FILE}: {said}")
    problems += _plan_problems(store, info, reports)
    seconds = time.monotonic() - started
    num_bytes = sum(report.num_bytes for report in reports)
    say(
        f"{len(reports)} shards, {sum(len(r.sources) for r in reports) - num_rejected} images, "
        f"{num_rejected} rejected: {num_bytes / 1e6:.0f} MB read back in {seconds:.1f} s; "
        f"{f'{len(problems)} problems' if problems else 'nothing is wrong'}"
    )
    return problems


def _read_shards(store: Store, info: DatasetInfo, processes: int) -> list[ShardReport]:
    """Check the shards in child processes: damaged bytes may kill a decoder in C."""
    idle = [Child() for _ in range(max(1, min(processes, len(info.shards))))]
    of_set = replace(info, shards=())

    def read(shard: ShardInfo) -> ShardReport:
        child = idle.pop()
        try:
            for _ in range(2):  # the first time, the process may have been killed from outside
                try:
                    return child.call(verify_shard, store, shard, of_set)
                except ChildDied:
                    continue
        finally:
            idle.append(child)
        return ShardReport([f"{shard_file(shard.name)} kills the decoder"])

    pool = ThreadPoolExecutor(len(idle))
    try:
        reports = pool.map(read, info.shards)
        return list(track(reports, "reading back", len(info.shards), "shards"))
    finally:
        pool.shutdown(cancel_futures=True)
        for child in idle:
            child.close()


def verify_shard(store: Store, shard: ShardInfo, info: DatasetInfo) -> ShardReport:
    """Compare a shard with what dataset.json says of the shard and of the set."""
    name = shard_file(shard.name)
    problems: list[str] = []
    tar = None
    try:
        tar = store.read(name)
        if hashlib.sha256(tar).hexdigest() != shard.sha256:
            sizes = f"{len(tar)} bytes, {shard.num_bytes} wanted"
            problems.append(f"{name} has another checksum than dataset.json says ({sizes})")
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except StoreError as error:
        problems.append(str(error))
    tables: list[list[Row]] = []
    for read in (read_manifest, read_rejected):
        tables.append([])
        try:
            tables[-1] = read(store, shard.name).to_pylist()
        except (pa.ArrowException, ValueError) as error:
            problems.append(reason(error))
    rows, rejected = tables
    if len(rows) != shard.num_images:
        wanted = f"dataset.json says {shard.num_images}"
        problems.append(f"the manifest of {shard.name} has {len(rows)} rows, {wanted}")
    for index, row in enumerate(rows):
        try:
            found = row if tar is None else _found(row, index, shard, info, tar)
            wrong = [
                f"{column} is {value}, the manifest says {row[column]}"
                for column, value in found.items()
                if value != row[column]
            ]
        except (ImageError, ValueError) as error:
            wrong = [reason(error)]
        problems += [f"{name}, {row['key']}: {what}" for what in wrong]
    sources = [row["source"] for row in (*rows, *rejected)]
    named = list(_at_most_named(problems, shard.name))
    return ShardReport(named, sources, len(rejected), len(tar or b""))


def _found(row: Row, index: int, shard: ShardInfo, info: DatasetInfo, tar: bytes) -> Row:
    """Columns of a row as the shard and the sample's members in the tar have them.

    Raises:
        ImageError, ValueError: a member cannot be used; says why.
    """

    def member(column: str) -> bytes:
        offset = row[f"{column}_offset"]
        return tar[offset : offset + row[f"{column}_length"]]

    file = f"{row['key']}.{row['image_ext']}"
    if not tar.startswith(f"{file}\0".encode(), row["image_offset"] - tarfile.BLOCKSIZE):
        raise ValueError(f"{file} is not at image_offset")
    num_classes = len(info.class_names)
    if row["label"] not in (range(num_classes) if num_classes else [None]):
        raise ValueError(f"label {row['label']}, where there are {num_classes} classes")
    try:
        described = dict(json.loads(member("json")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"its .json cannot be read: {error}") from error
    found: Row = {"shard": shard.name, "index": index, "key": sample_key(row["source"])}
    found |= {column: described.get(column) for column in JSON_COLUMNS}
    height, width = decode_stored(member("image"), info.pixels.channels).shape[:2]
    if (height, width) != (found["height"], found["width"]):
        raise ValueError(f"its image is {width} x {height}, its .json has another size")
    levels = decode_saliency(member("saliency"))
    if len(levels) != info.saliency_size:
        raise ValueError(f"its map has {len(levels)} cells a side, not {info.saliency_size}")
    now = map_statistics(levels)
    differences = [now.mean - row["saliency_mean"], now.std - row["saliency_std"]]
    if row["separability"] is not None:  # a set of an earlier version has none
        differences.append(now.separability - row["separability"])
    share = now.foreground_share - row["foreground_share"]
    # another machine may round a patch at the threshold to the other side
    if max(map(abs, differences)) > 1e-6 or abs(share) > 1.01 / GRID_SIDE**2:
        raise ValueError("its map is not the one that the manifest's statistics are of")
    return found


def _plan_problems(store: Store, info: DatasetInfo, reports: list[ShardReport]) -> Iterator[str]:
    """Compare the files with those that belong there, and the images with those of the plans."""
    digests: list[str] = []
    try:
        digests += (plan.set_digest for plan in read_plans(store))
        if not digests:
            yield f"{plan_file(0)} is missing"
        elif info.plan_digest not in digests:
            yield f"{DATASET_FILE} was made by another plan than {plan_file(0)}"
        yield from _source_problems(store, len(digests), reports)
    except SetError as error:
        yield f"the plan cannot be read: {error}"
    known = {DATASET_FILE, REPORT_FILE}
    of_plans = (plan_file, rows_file, versions_file)
    known |= {file(number) for number in range(len(digests)) for file in of_plans}
    kinds = (shard_file, manifest_file, rejected_file)
    known |= {file(shard.name) for shard in info.shards for file in kinds}
    for name in sorted(set(store.names()) - known):
        is_left = name.endswith(TEMPORARY_SUFFIX)
        killed = "was left by a run that was killed, or is being written now"
        yield f"{name} {killed if is_left else 'belongs to no shard of the set'}"


def _source_problems(store: Store, num_plans: int, reports: list[ShardReport]) -> Iterator[str]:
    """Every image of the plans must be once in a shard or on a rejected list."""
    kind = pa.large_string()
    found = pa.chunked_array([pa.array(report.sources, kind) for report in reports], kind)
    sources, counts = found.value_counts().flatten()
    twice = pc.greater(counts, 1)
    pairs = zip(sources.filter(twice), counts.filter(twice), strict=True)
    problems = (f"{source} is there {count} times" for source, count in pairs)
    yield from _at_most_named(problems, "the shards")
    num_planned = 0
    missing: list[str] = []
    for generation in range(num_plans):
        shards = [shard.column("source") for shard in planned_shards(store, generation)]
        planned = pa.chunked_array(shards, kind)
        is_there = pc.is_in(planned, value_set=sources)
        missing += planned.filter(pc.invert(is_there)).to_pylist()
        num_planned += len(planned)
    nowhere = (f"{name} is planned, but in no shard and on no rejected list" for name in missing)
    yield from _at_most_named(nowhere, plan_file(0))
    num_extra = len(sources) - (num_planned - len(missing))
    if num_plans and num_extra > 0:
        yield f"{num_extra} images of the shards and rejected lists are in no plan"


def _at_most_named(problems: Iterable[str], where: str) -> Iterator[str]:
    """The first `MAX_NAMED` problems and, after them, the number of the others."""
    problems = iter(problems)
    yield from islice(problems, MAX_NAMED)
    rest = sum(1 for _ in problems)
    if rest:
        yield f"{where}: and {rest} more problems"
