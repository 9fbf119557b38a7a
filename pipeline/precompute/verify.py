"""Read a shard set back and name everything that is wrong with it.

Every shard is checked by itself (`verify_shard`), on all cores. Then the sources of all shards and
rejected lists are compared with those of the plan.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from pipeline.core.child_process import Child, ChildDied
from pipeline.core.errors import InputError
from pipeline.core.progress import say, track
from pipeline.precompute.plan_files import plan_file, planned_sources, read_plan, rows_file
from pipeline.precompute.verify_shard import (
    MAX_NAMED,
    ShardReport,
    at_most_named,
    source_digest,
    verify_shard,
)
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info
from pipeline.shardset.schema import (
    DATASET_FILE,
    REPORT_FILE,
    manifest_file,
    rejected_file,
    shard_file,
)
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from pipeline.storage.storage import Place, Store, StoreError, open_store


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
    say(
        f"{len(reports)} shards, {sum(r.num_images for r in reports)} images, "
        f"{num_rejected} rejected: {sum(r.num_bytes for r in reports) / 1e6:.0f} MB read back in "
        f"{seconds:.1f} s; {f'{len(problems)} problems' if problems else 'nothing is wrong'}"
    )
    return problems


def _read_shards(store: Store, info: DatasetInfo, processes: int) -> list[ShardReport]:
    """Check the shards in child processes: damaged bytes may kill a decoder in C."""
    children = [Child() for _ in range(min(processes, len(info.shards)))]
    idle: SimpleQueue[Child] = SimpleQueue()
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
        return ShardReport(shard.name, [f"{shard_file(shard.name)} kills the decoder"])

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
    except (InputError, KeyError) as error:
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
    there = np.sort(np.concatenate([np.zeros(0, np.uint64), *(r.digests for r in reports)]))
    twice = np.unique(there[1:][there[1:] == there[:-1]])
    for digest in twice[:MAX_NAMED]:
        names = [r.name for r in reports for _ in range(int((r.digests == digest).sum()))]
        yield f"an image is there {len(names)} times: key ...-{digest:016x} in {', '.join(names)}"
    if len(twice) > MAX_NAMED:
        yield f"and {len(twice) - MAX_NAMED} more images are there more than once"
    missing: list[str] = []
    num_found = 0
    for generation in range(num_plans):
        for batch in planned_sources(store, generation):
            sources = batch.column("source").to_pylist()
            is_there = np.isin(np.array(list(map(source_digest, sources)), np.uint64), there)
            num_found += int(is_there.sum())
            missing += compress(sources, ~is_there)
    nowhere = (
        f"{source} is planned, but in no shard and on no rejected list" for source in missing
    )
    yield from at_most_named(nowhere, plan_file(0))
    num_extra = len(np.unique(there)) - num_found
    if num_plans and num_extra > 0:
        yield f"{num_extra} images of the shards and rejected lists are in no plan"
