"""A shard set read back: every file, every member, every row, and every image of the plan.

What the shards hold is checked shard by shard (`pipeline.precompute.verify_shard`) on all cores; here it is
put together: files that nobody asked for, totals, images that are there twice or not at all.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.core.progress import say, track
from pipeline.precompute.plan_files import (
    WrittenPlan,
    plan_file,
    planned_sources,
    read_plan,
    rows_file,
)
from pipeline.precompute.verify_shard import Expected, ShardReport, source_digest, verify_shard
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from pipeline.shardset.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    REJECTED_FOLDER,
    REPORT_FILE,
    SHARDS_FOLDER,
    shard_name,
)
from pipeline.storage.atomic import TEMPORARY_SUFFIX
from pipeline.storage.storage import Place, Store, StoreError, open_store

MAX_NAMED = 20
"""How many images of a kind of problem are named; the rest is counted."""
FOLDERS = {SHARDS_FOLDER: ".tar", MANIFEST_FOLDER: ".parquet", REJECTED_FOLDER: ".parquet"}


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Read a shard set back and name everything that is wrong with it.

    Attributes:
        verify: Folder, s3:// or gs:// prefix of the shard set.
        processes: How many shards are read at once, 0 or more; 0: one for each core.
    """

    verify: str | Path
    processes: int = 0

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise InputError(f"processes must be at least 0, got {self.processes}")


def verify_set(place: Place, processes: int = 0) -> list[str]:
    """Read a shard set back, with a line of progress now and then and one at the end.

    Args:
        place: the shard set; nothing is written to it.
        processes: how many shards are read at once; 0: one for each core.

    Returns:
        What is wrong, one line each; empty where everything is as it should be.

    Raises:
        InputError: there is no such folder, or the place cannot be reached.
    """
    store = open_store(place)
    if not store.is_there():
        raise InputError(f"no shards at {store.url}: no such folder")
    started = time.monotonic()
    problems: list[str] = []
    info: DatasetInfo | None = None
    try:
        info = load_dataset_info(store)
    except StoreError:
        raise
    except InputError as error:
        problems.append(str(error))
    plans, unreadable = _plans(store)
    problems += unreadable
    names, strays = _names(store, info, len(plans))
    problems += strays
    reports = _read_shards(_expectations(store, info, names, plans), processes)
    for name in names:
        problems += reports[name].problems
    ordered = [reports[name] for name in names]
    if info is not None:
        problems += _check_totals(info, plans, ordered)
    problems += _check_sources(store, plans, ordered)
    seconds = time.monotonic() - started
    num_bytes = sum(report.num_bytes for report in ordered)
    say(
        f"{len(names)} shards, {sum(r.num_images for r in ordered)} images, "
        f"{sum(r.num_rejected for r in ordered)} rejected: {num_bytes / 1e6:.0f} MB read back in "
        f"{seconds:.1f} s; {'nothing is wrong' if not problems else f'{len(problems)} problems'}"
    )
    return problems


def _plans(store: Store) -> tuple[list[WrittenPlan], list[str]]:
    """The set's plan and those of its appends, and why not all of them can be read."""
    plans: list[WrittenPlan] = []
    try:
        while (plan := read_plan(store, len(plans))) is not None:
            plans.append(plan)
    except StoreError:
        raise
    except InputError as error:
        return plans, [str(error)]
    return plans, [] if plans else [f"{plan_file(0)} is missing"]


def _names(store: Store, info: DatasetInfo | None, num_plans: int) -> tuple[list[str], list[str]]:
    """The shards, by dataset.json or by what lies there, and the files that belong to none."""
    there = sorted(store.names())
    if info is not None:
        names = [shard.name for shard in info.shards]
    else:
        files = [file.split("/") for file in there]
        names = sorted({path[1].split(".")[0] for path in files if path[0] in FOLDERS} - {""})
    known = {f"{folder}/{name}{suffix}" for folder, suffix in FOLDERS.items() for name in names}
    known |= {DATASET_FILE, REPORT_FILE}
    for generation in range(num_plans):
        known |= {plan_file(generation), rows_file(generation)}
    return names, [f"{file} {_why_stray(file)}" for file in there if file not in known]


def _why_stray(path: str) -> str:
    if path.split("/")[-1].startswith(".") and path.endswith(TEMPORARY_SUFFIX):
        return "was left by a run that was killed, or is being written now"
    return "belongs to no shard of the set"


def _expectations(
    store: Store, info: DatasetInfo | None, names: list[str], plans: list[WrittenPlan]
) -> list[Expected]:
    if info is None:
        return [Expected(store=store, name=name) for name in names]
    digests = {
        shard_name(plan.first_shard + number): plan.digest
        for plan in plans
        for number in range(plan.num_shards)
    }
    return [
        Expected(
            store=store,
            name=shard.name,
            shard=shard,
            num_classes=len(info.class_names),
            saliency_size=info.saliency_size,
            plan_digest=digests.get(shard.name, info.plan_digest),
        )
        for shard in info.shards
    ]


def _read_shards(expected: list[Expected], processes: int) -> dict[str, ShardReport]:
    """The reports by shard. Damaged bytes may kill a decoder in C, so each is tried again alone."""
    count = min(processes or os.cpu_count() or 1, max(len(expected), 1))
    reports: dict[str, ShardReport] = {}
    for report in track(_pooled(expected, count), "reading back", len(expected), "shards"):
        reports[report.name] = report
    for one in expected:
        if one.name not in reports:
            alone = list(_pooled([one], 1))
            died = ShardReport(one.name, [f"{SHARDS_FOLDER}/{one.name}.tar kills the decoder"])
            reports[one.name] = alone[0] if alone else died
    return reports


def _pooled(expected: list[Expected], count: int) -> Iterator[ShardReport]:
    """Reports in any order, until the end or until a process dies."""
    # not forked: the caller may have threads
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_be_quiet) as pool:
        try:
            futures = [pool.submit(verify_shard, one) for one in expected]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            return


def _be_quiet() -> None:
    """What C libraries print about damaged images is said in the report."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _check_totals(
    info: DatasetInfo, plans: list[WrittenPlan], reports: list[ShardReport]
) -> Iterator[str]:
    if plans and info.plan_digest not in {plan.digest for plan in plans}:
        yield f"{DATASET_FILE} was made by another plan than lies beside it"
    num_rejected = sum(report.num_rejected for report in reports)
    if num_rejected != info.num_rejected:
        yield f"{DATASET_FILE}: num_rejected is {info.num_rejected}, the lists have {num_rejected}"


def _check_sources(
    store: Store, plans: list[WrittenPlan], reports: list[ShardReport]
) -> Iterator[str]:
    """Whether every image of the plan is there once: in a shard or on a rejected list."""
    parts = [report.digests for report in reports]
    there = np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.uint64)
    twice = np.unique(there[1:][there[1:] == there[:-1]])
    for digest in twice[:MAX_NAMED]:
        where = [r.name for r in reports for _ in range(int((r.digests == digest).sum()))]
        yield f"an image is there {len(where)} times: key ...-{digest:016x} in {', '.join(where)}"
    if len(twice) > MAX_NAMED:
        yield f"and {len(twice) - MAX_NAMED} more images are there more than once"
    try:
        yield from _check_plans(store, plans, np.unique(there))
    except StoreError:
        raise
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        yield f"the plan cannot be read: {' '.join(str(error).split())}"


def _check_plans(
    store: Store, plans: list[WrittenPlan], there: NDArray[np.uint64]
) -> Iterator[str]:
    num_planned, num_missing = 0, 0
    for generation, plan in enumerate(plans):
        num_rows = 0
        for batch in planned_sources(store, generation):
            sources = batch.column("source").to_pylist()
            num_rows += len(sources)
            digests = np.array([source_digest(source) for source in sources], np.uint64)
            for index in np.flatnonzero(~np.isin(digests, there)):
                num_missing += 1
                if num_missing <= MAX_NAMED:
                    yield f"{sources[index]} is planned, but in no shard and on no rejected list"
        num_planned += num_rows
        if num_rows != plan.num_images:
            yield (
                f"{rows_file(generation)} has {num_rows} images, "
                f"{plan_file(generation)} says {plan.num_images}"
            )
    if num_missing > MAX_NAMED:
        yield f"and {num_missing - MAX_NAMED} more planned images are nowhere"
    if plans and num_planned - num_missing < len(there):
        extra = len(there) - (num_planned - num_missing)
        yield f"{extra} images of the shards and rejected lists are in no plan"
