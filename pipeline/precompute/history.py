"""What a shard set is made of: its first plan, and one more for each append."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.precompute.plan import source_hashes
from pipeline.precompute.plan_files import WrittenPlan, planned_sources, read_plan
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info, read_record
from pipeline.shardset.schema import DATASET_FILE, shard_name
from pipeline.sources.collected import Collected
from pipeline.storage.storage import Store


@dataclass(frozen=True)
class History:
    """The plans of a set.

    Attributes:
        plans: the first one, then those of appends, in order.
        num_finished: how many of them the set is made of; one more may have been begun.
        info: dataset.json; None where there is none.
    """

    plans: tuple[WrittenPlan, ...]
    num_finished: int
    info: DatasetInfo | None


def read_history(out: Store) -> History:
    """The plans that a set was made by.

    Raises:
        InputError: a file of it is damaged.
    """
    plans: list[WrittenPlan] = []
    while (plan := read_plan(out, len(plans))) is not None:
        plans.append(plan)
    info = load_dataset_info(out) if plans and out.size(DATASET_FILE) is not None else None
    if info is None:  # it was removed, or never written: what is whole belongs to the set
        finished = 1
        while finished < len(plans) and _records(out, plans[finished]) is not None:
            finished += 1
        return History(tuple(plans), min(finished, len(plans)), None)
    digests = [plan.digest for plan in plans]
    if info.plan_digest not in digests:
        raise InputError(
            f"{out.where(DATASET_FILE)} belongs to no plan beside it: choose another --out"
        )
    return History(tuple(plans), digests.index(info.plan_digest) + 1, info)


def shards_of(out: Store, plan: WrittenPlan) -> tuple[list[ShardInfo], int]:
    """The shards that a plan has made, and how many images were rejected from them.

    Raises:
        InputError: one is not there.
    """
    found = _records(out, plan)
    if found is None:
        first, last = (
            shard_name(plan.first_shard),
            shard_name(plan.first_shard + plan.num_shards - 1),
        )
        raise InputError(
            f"{out.url}: of the appended shards {first} to {last} some are broken: mend them "
            "first, with --append and the data that they were made of"
        )
    return found


def _records(out: Store, plan: WrittenPlan) -> tuple[list[ShardInfo], int] | None:
    shards: list[ShardInfo] = []
    num_rejected = 0
    for number in range(plan.first_shard, plan.first_shard + plan.num_shards):
        record = read_record(out, shard_name(number))
        if record is None or record.plan_digest != plan.digest:
            return None
        shards.append(record.shard)
        num_rejected += record.num_rejected
    return shards, num_rejected


@dataclass(frozen=True)
class Compared:
    """A listing beside a set.

    Attributes:
        new: images that are not in the set.
        num_known: images that are.
        covered: the plans all of whose images are listed.
    """

    new: Collected
    num_known: int
    covered: tuple[int, ...]


def compare(out: Store, history: History, images: Collected) -> Compared:
    """Tell new images from those that a set has, by their sources.

    Raises:
        InputError: an image of the set is listed with another size.
    """
    hashes = source_hashes(images.rows["source"], 8)[:, 0]
    sizes = images.rows["num_bytes"].to_numpy()
    by_hash = np.argsort(hashes, kind="stable")
    hashes = hashes[by_hash]
    known = np.zeros(len(hashes), bool)
    covered: list[int] = []
    for generation in range(history.num_finished):
        is_covered = True
        for batch in planned_sources(out, generation):
            wanted = source_hashes(pa.chunked_array([batch.column("source")]), 8)[:, 0]
            places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            rows, listed = by_hash[places], hashes[places] == wanted
            is_covered &= bool(listed.all())
            known[rows[listed]] = True
            before = batch.column("num_bytes").to_numpy()
            _refuse_changed(batch, before, sizes[rows], listed)
        if is_covered:
            covered.append(generation)
    kept = images.rows.filter(pa.array(~known)).combine_chunks()
    new = dataclasses.replace(images, rows=kept)
    return Compared(new, int(known.sum()), tuple(covered))


def _refuse_changed(
    batch: pa.RecordBatch,
    before: NDArray[np.int64],
    now: NDArray[np.int64],
    listed: NDArray[np.bool_],
) -> None:
    changed = np.flatnonzero(listed & (before != now) & (before >= 0) & (now >= 0))
    if len(changed):
        row = int(changed[0])
        source = batch.column("source")[row].as_py()
        raise InputError(
            f"{source} is in the set with {before[row]} bytes and has {now[row]} now: an append "
            "changes nothing; give the new image another name, or choose another --out"
        )
