"""Compare what is wanted with the plans that a shard set was made by, and with its shards.

The first plan of a set is generation 0; every append adds a plan, the next generation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import InputError
from pipeline.precompute.plan import (
    Plan,
    PlanInfo,
    plan_file,
    planned_shards,
    read_plan,
    read_plans,
    source_hashes,
)
from pipeline.shardset.manifest import (
    DatasetInfo,
    SetError,
    ShardInfo,
    ShardRecord,
    load_dataset_info,
    read_record,
)
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE, SHARDS_FOLDER, shard_name
from pipeline.sources.listing import PLAN_SCHEMA, Collected
from pipeline.storage.store import Store


@dataclass(frozen=True)
class History:
    """The plans of the shards that a set has, by generation, and its dataset.json if it has one."""

    finished: tuple[PlanInfo, ...]
    info: DatasetInfo | None


def read_history(out: Store) -> History:
    """Read the plans of a set; InputError if one of its files is damaged."""
    plans = tuple(read_plans(out))
    info = load_dataset_info(out) if plans and out.size(DATASET_FILE) is not None else None
    if info is None:  # it was removed, or never written: an append counts if all its shards exist
        count = 1
        while count < len(plans) and _records(out, plans[count]) is not None:
            count += 1
        return History(plans[:count], None)
    digests = [plan.digest for plan in plans]
    if info.plan_digest not in digests:
        raise InputError(
            f"{out.where(DATASET_FILE)} belongs to no plan beside it: choose another --out"
        )
    return History(plans[: digests.index(info.plan_digest) + 1], info)


def shards_of(
    out: Store, history: History, generations: Iterable[int]
) -> tuple[tuple[ShardInfo, ...], int]:
    """The shards of finished plans, and the number of images that were rejected from them.

    Raises:
        InputError: a shard is missing.
    """
    plans = [history.finished[generation] for generation in generations]
    if history.info is not None and len(plans) == len(history.finished):
        return history.info.shards, history.info.num_rejected
    records: list[ShardRecord] = []
    for plan in plans:
        found = _records(out, plan)
        if found is None:
            names = [shard_name(plan.first_shard + n) for n in (0, plan.num_shards - 1)]
            raise InputError(
                f"{out.url}: of the appended shards {' to '.join(names)} some are broken: mend "
                "them first, with --append and the data that they were made of"
            )
        records += found
    shards = tuple(record.shard for record in records)
    return shards, sum(record.num_rejected for record in records)


def _records(out: Store, plan: PlanInfo) -> list[ShardRecord] | None:
    """The records of the shards of a plan; None if one is missing."""
    records: list[ShardRecord] = []
    for number in range(plan.first_shard, plan.first_shard + plan.num_shards):
        record = read_record(out, shard_name(number))
        if record is None or record.plan_digest != plan.digest:
            return None
        records.append(record)
    return records


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


def check_plan(store: Store, plan: Plan, generation: int = 0) -> bool:
    """Whether the set was begun with this plan; False if nothing was begun.

    Raises:
        InputError: begun with another plan; names what differs, old -> new.
    """
    old = read_plan(store, generation)
    if old is None:
        has_shards = next(store.names(SHARDS_FOLDER), None) is not None
        if generation == 0 and (has_shards or store.size(DATASET_FILE) is not None):
            raise InputError(f"{store.url} holds shards but no {PLAN_FILE}: choose another --out")
        return False
    if old.digest == plan.info.digest:
        return True
    named = _difference(store, old, plan, generation)
    what, way_out = f"another plan ({named})", "choose another --out, or remove this one"
    if generation:
        what = f"an append of other images ({named})"
        way_out = f"finish that one first, or remove {plan_file(generation)}"
    elif named.endswith(" is new"):
        way_out = "choose another --out, or add new images to a finished set with --append"
    raise InputError(f"{store.url} was begun with {what}: {way_out}")


def _difference(store: Store, old: PlanInfo, plan: Plan, generation: int) -> str:
    """What differs first, in words: a setting, a source, or something else about the images."""
    if named := parameter_difference(old.parameters, plan.info.parameters):
        return named
    try:
        rows = pa.Table.from_batches(planned_shards(store, generation), PLAN_SCHEMA)
    except SetError:
        return "other images"
    before, now = (table.select(["source", "num_bytes"]) for table in (rows, plan.rows))
    both = before.join(now, "source", join_type="full outer", right_suffix="_now")
    differs = pc.fill_null(pc.not_equal(both["num_bytes"], both["num_bytes_now"]), True)
    for row in both.filter(differs).sort_by("source").slice(0, 1).to_pylist():
        if row["num_bytes_now"] is None:
            return f"{row['source']} is gone"
        if row["num_bytes"] is None:
            return f"{row['source']} is new"
        return f"{row['source']}: {row['num_bytes']} -> {row['num_bytes_now']} bytes"
    is_class = old.class_names != plan.info.class_names
    return "other class labels" if is_class else "other places or labels"


def parameter_difference(
    old: Mapping[str, object], new: Mapping[str, object], prefix: str = ""
) -> str:
    """The first setting that differs, old -> new; empty if none does.

    A saliency source's name decides which parameters it has: it is compared before them.
    """
    for name in sorted(old.keys() | new.keys(), key=lambda name: (name != "source", name)):
        before, now = old.get(name, "none"), new.get(name, "none")
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if named := parameter_difference(before, now, f"{name}."):
                return named
        elif before != now:
            return f"{prefix}{name}: {before} -> {now}"
    return ""
