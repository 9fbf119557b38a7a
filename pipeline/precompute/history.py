"""Compare what is wanted with the plans that a shard set was made by, and with its shards.

The first plan of a set is generation 0; every append adds a plan, the next generation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import InputError
from pipeline.precompute.amend import (
    Comparison,
    ShardDifference,
    amend,
    first_unexpected,
    read_versions,
    rejected_sources,
    versions_of,
)
from pipeline.precompute.plan import (
    Plan,
    PlanInfo,
    plan_file,
    planned_shards,
    read_plan,
    read_plans,
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
from pipeline.sources.listing import PLAN_SCHEMA, Collected, DataStore
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
    digests = [plan.set_digest for plan in plans]
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
    out: Store, data: DataStore, history: History, images: Collected
) -> tuple[Collected, tuple[int, ...], History]:
    """The listed images that a set does not have, and the plans all of whose images are listed.

    Images that were rejected may have changed: their plans are amended, and so is the history.

    Raises:
        InputError: an image of the set is listed with other bytes, or one that was rejected where
            other images of its shard are not listed.
    """
    comparison = Comparison(out, data, images.rows)
    is_new = np.ones(images.rows.num_rows, bool)
    covered: list[int] = []
    plans = list(history.finished)
    for generation, plan in enumerate(plans):
        for shard in planned_shards(out, generation):
            at = comparison.find(shard)
            is_new[at[at >= 0]] = False
        found = list(comparison.differences(plan, generation, bytes_only=True))
        gone = [replace(difference, changed=()) for difference in found]
        is_covered = first_unexpected(out, plan, gone) is None
        covered += [generation] * is_covered
        changed = [difference for difference in found if difference.changed]
        if not changed:
            continue
        others = [replace(difference, gone=()) for difference in changed]
        if source := first_unexpected(out, plan, others):
            raise InputError(
                f"{source} is in the set with other bytes: an append changes nothing; give the new "
                "image another name, or choose another --out"
            )
        if not is_covered:
            raise InputError(
                f"{changed[0].changed[0]} was rejected and has changed, and its shard cannot be "
                "made again without its other images: give --data that has them all"
            )
        plans[generation] = amend(out, plan, generation, found, plan.listing or plan.digest)
    rows = images.rows.filter(pa.array(is_new)).combine_chunks()
    return replace(images, rows=rows), tuple(covered), replace(history, finished=tuple(plans))


def check_plan(store: Store, data: DataStore, plan: Plan, generation: int = 0) -> PlanInfo | None:
    """The plan that the set was begun with, which is amended where rejected images have changed.

    Returns:
        None if nothing was begun.

    Raises:
        InputError: begun with another plan; names what differs, old -> new.
    """
    old = read_plan(store, generation)
    if old is None:
        has_shards = next(store.names(SHARDS_FOLDER), None) is not None
        if generation == 0 and (has_shards or store.size(DATASET_FILE) is not None):
            raise InputError(f"{store.url} holds shards but no {PLAN_FILE}: choose another --out")
        return None
    is_same = plan.info.digest == (old.listing or old.digest)
    versions = read_versions(store, generation)
    now = versions_of(plan.rows)[plan.order]
    if is_same and (versions is None or np.array_equal(versions, now)):
        return old
    named, found = "", list[ShardDifference]()
    if not is_same:
        named = _other_settings(old, plan)
    try:
        next(planned_shards(store, generation), None)
    except SetError:
        named = named or "other images"
    if not named:
        comparison = Comparison(store, data, plan.rows)
        listed = sum(
            int((comparison.find(shard) >= 0).sum()) for shard in planned_shards(store, generation)
        )
        found = list(comparison.differences(old, generation))
        unexpected = first_unexpected(store, old, found)
        if is_same and unexpected:
            named = f"{unexpected} has other bytes, and the same name and size"
        elif listed < plan.info.num_images or unexpected:
            names = (shard_name(old.first_shard + difference.number) for difference in found)
            may_change = set[str]().union(*(rejected_sources(store, name) for name in names))
            named = _difference(store, plan, generation, may_change)
    if not named:
        return amend(store, old, generation, found, plan.info.digest)
    what, way_out = f"another plan ({named})", "choose another --out, or remove this one"
    if generation:
        what = f"an append of other images ({named})"
        way_out = f"finish that one first, or remove {plan_file(generation)}"
    elif named.endswith(" is new"):
        way_out = "choose another --out, or add new images to a finished set with --append"
    raise InputError(f"{store.url} was begun with {what}: {way_out}")


def _other_settings(old: PlanInfo, plan: Plan) -> str:
    """The first setting that differs, or that the classes do; empty if nothing does."""
    if named := parameter_difference(old.parameters, plan.info.parameters):
        return named
    return "other class labels" if old.class_names != plan.info.class_names else ""


def _difference(store: Store, plan: Plan, generation: int, may_change: set[str]) -> str:
    """What differs first about the images, in words, but for some that may change."""
    rows = pa.Table.from_batches(planned_shards(store, generation), PLAN_SCHEMA)
    before, now = (table.select(["source", "num_bytes"]) for table in (rows, plan.rows))
    both = before.join(now, "source", join_type="full outer", right_suffix="_now")
    differs = pc.fill_null(pc.not_equal(both["num_bytes"], both["num_bytes_now"]), True)
    allowed = pc.is_in(both["source"], value_set=pa.array(may_change, pa.large_string()))
    differs = pc.and_(differs, pc.invert(allowed))
    for row in both.filter(differs).sort_by("source").slice(0, 1).to_pylist():
        if row["num_bytes_now"] is None:
            return f"{row['source']} is gone"
        if row["num_bytes"] is None:
            return f"{row['source']} is new"
        return f"{row['source']}: {row['num_bytes']} -> {row['num_bytes_now']} bytes"
    return "other places or labels"


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
            return f"{prefix}{name}: {before!s:.80} -> {now!s:.80}"
    return ""
