"""Read a shard set back and name everything that is wrong with it.

Every shard is checked by itself, on all cores: digest, decoding, the manifest's rows. Then the
sources of all shards are compared with those of the plans, and the files with those that belong
there.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.child_process import Child, ChildDied
from pipeline.core.errors import InputError
from pipeline.core.progress import say, track
from pipeline.precompute.plan_files import plan_file, planned_shards, read_plan, rows_file
from pipeline.precompute.verify_shard import ShardReport, at_most_named, verify_shard
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info
from pipeline.shardset.schema import (
    DATASET_FILE,
    REPORT_FILE,
    manifest_file,
    rejected_file,
    shard_file,
)
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from pipeline.storage.base import Store, StoreError
from pipeline.storage.storage import Place, open_store


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


def verify_set(place: Place, processes: int = 0) -> list[str]:
    """Read a shard set back; nothing is written to it.

    Args:
        place: the shard set.
        processes: how many shards are read at once; 0: one for each core.

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
    except StoreError:
        raise
    except InputError as error:
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
    idle: SimpleQueue[Child] = SimpleQueue()
    children = [Child() for _ in range(min(processes, len(info.shards)))]
    for child in children:
        idle.put(child)
    of_set = replace(info, shards=())

    def read(shard: ShardInfo) -> ShardReport:
        child = idle.get()
        try:
            for _ in range(2):  # the first time, the process may have been killed from outside
                try:
                    return child.call(verify_shard, store, shard, of_set)
                except ChildDied:
                    continue
        finally:
            idle.put(child)
        return ShardReport([f"{shard_file(shard.name)} kills the decoder"])

    pool = ThreadPoolExecutor(max(1, len(children)))
    try:
        reports = pool.map(read, info.shards)
        return list(track(reports, "reading back", len(info.shards), "shards"))
    finally:
        pool.shutdown(cancel_futures=True)
        for child in children:
            child.close()


def _plan_problems(store: Store, info: DatasetInfo, reports: list[ShardReport]) -> Iterator[str]:
    """Compare the files with those that belong there, and the images with those of the plans."""
    digests: list[str] = []
    try:
        while (plan := read_plan(store, len(digests))) is not None:
            digests.append(plan.digest)
        if not digests:
            yield f"{plan_file(0)} is missing"
        elif info.plan_digest not in digests:
            yield f"{DATASET_FILE} was made by another plan than {plan_file(0)}"
        yield from _source_problems(store, len(digests), reports)
    except StoreError:
        raise
    except InputError as error:
        yield f"the plan cannot be read: {error}"
    known = {DATASET_FILE, REPORT_FILE}
    known |= {file(number) for number in range(len(digests)) for file in (plan_file, rows_file)}
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
    problems = (
        f"{source} is there {count} times"
        for source, count in zip(sources.filter(twice), counts.filter(twice), strict=True)
    )
    yield from at_most_named(problems, "the shards")
    num_planned = 0
    missing: list[str] = []
    for generation in range(num_plans):
        shards = [shard.column("source") for shard in planned_shards(store, generation)]
        planned = pa.chunked_array(shards, kind)
        is_there = pc.is_in(planned, value_set=sources)
        missing += planned.filter(pc.invert(is_there)).to_pylist()
        num_planned += len(planned)
    yield from at_most_named(
        (f"{source} is planned, but in no shard and on no rejected list" for source in missing),
        plan_file(0),
    )
    num_extra = len(sources) - (num_planned - len(missing))
    if num_plans and num_extra > 0:
        yield f"{num_extra} images of the shards and rejected lists are in no plan"
