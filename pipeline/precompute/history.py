"""The plans that a shard set was made by: the first one, and one more for each append."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import InputError
from pipeline.precompute.plan import PlanInfo, source_hashes
from pipeline.precompute.plan_files import planned_shards, read_plan
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info, read_record
from pipeline.shardset.schema import DATASET_FILE, shard_name
from pipeline.sources.listing import Collected
from pipeline.storage.base import Store


@dataclass(frozen=True)
class History:
    """The plans of a set.

    Attributes:
        finished: plans of the shards that the set has; the first one, then those of appends.
        info: dataset.json; None if there is none.
    """

    finished: tuple[PlanInfo, ...]
    info: DatasetInfo | None


def read_history(out: Store) -> History:
    """Read the plans of a set; InputError if one of its files is damaged."""
    plans: list[PlanInfo] = []
    while (plan := read_plan(out, len(plans))) is not None:
        plans.append(plan)
    info = load_dataset_info(out) if plans and out.size(DATASET_FILE) is not None else None
    if info is None:  # it was removed, or never written: an append counts if all its shards exist
        count = 1
        while count < len(plans) and _shards(out, plans[count]) is not None:
            count += 1
        return History(tuple(plans[:count]), None)
    digests = [plan.digest for plan in plans]
    if info.plan_digest not in digests:
        raise InputError(
            f"{out.where(DATASET_FILE)} belongs to no plan beside it: choose another --out"
        )
    return History(tuple(plans[: digests.index(info.plan_digest) + 1]), info)


def shards_of(out: Store, plans: Iterable[PlanInfo]) -> tuple[tuple[ShardInfo, ...], int]:
    """The shards of finished plans, and the number of images that were rejected from them.

    Raises:
        InputError: a shard is missing.
    """
    shards: list[ShardInfo] = []
    num_rejected = 0
    for plan in plans:
        found = _shards(out, plan)
        if found is None:
            names = [shard_name(plan.first_shard + n) for n in (0, plan.num_shards - 1)]
            raise InputError(
                f"{out.url}: of the appended shards {' to '.join(names)} some are broken: mend "
                "them first, with --append and the data that they were made of"
            )
        shards += found[0]
        num_rejected += found[1]
    return tuple(shards), num_rejected


def _shards(out: Store, plan: PlanInfo) -> tuple[list[ShardInfo], int] | None:
    numbers = range(plan.first_shard, plan.first_shard + plan.num_shards)
    shards: list[ShardInfo] = []
    num_rejected = 0
    for number in numbers:
        record = read_record(out, shard_name(number))
        if record is None or record.plan_digest != plan.digest:
            return None
        shards.append(record.shard)
        num_rejected += record.num_rejected
    return shards, num_rejected


def new_images(
    out: Store, history: History, images: Collected
) -> tuple[Collected, tuple[int, ...]]:
    """The listed images that a set does not have, and the plans all of whose images are listed.

    Raises:
        InputError: an image of the set is listed with another size.
    """
    listed = pa.array(source_hashes(images.rows["source"], 8)[:, 0])
    is_new = np.ones(len(listed), bool)
    covered: list[int] = []
    for generation in range(len(history.finished)):
        hashes, sizes = [], []
        for shard in planned_shards(out, generation):
            hashes.append(source_hashes(shard.column("source"), 8)[:, 0])
            sizes.append(shard.column("num_bytes").to_numpy())
        planned = pc.index_in(listed, value_set=pa.array(np.concatenate(hashes)))
        known = planned.is_valid().to_numpy(zero_copy_only=False)
        is_new &= ~known
        if known.sum() == sum(map(len, hashes)):
            covered.append(generation)
        before = np.concatenate(sizes)[planned.drop_null().to_numpy()]
        now = images.rows["num_bytes"].to_numpy()[known]
        changed = np.flatnonzero((before != now) & (before >= 0) & (now >= 0))
        if len(changed):
            first = int(changed[0])
            source = images.rows["source"][int(np.flatnonzero(known)[first])]
            raise InputError(
                f"{source} is in the set with {before[first]} bytes and has {now[first]} now: an "
                "append changes nothing; give the new image another name, or choose another --out"
            )
    rows = images.rows.filter(pa.array(is_new)).combine_chunks()
    return replace(images, rows=rows), tuple(covered)
