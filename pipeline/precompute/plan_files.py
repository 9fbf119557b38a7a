"""Plans on disk: plan.json and plan.arrow beside the shards, plan-001.* for the first append, ...

plan.arrow has one record batch per shard, so that a job reads only its own rows. (Parquet with a
row group per shard takes a footer of megabytes and a second to open at 40,000 shards.)
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import InputError
from pipeline.precompute.plan import Plan, PlanInfo
from pipeline.shardset.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    PLAN_FILE,
    REJECTED_FOLDER,
    SHARDS_FOLDER,
    shard_name,
)
from pipeline.sources.listing import PLAN_SCHEMA
from pipeline.storage.base import Store, StoreError

SHARD_STEM = shard_name(0).rstrip("0")


def plan_file(generation: int) -> str:
    """plan.json for the first plan of a set, plan-001.json for the first append."""
    stem, dot, suffix = PLAN_FILE.partition(".")
    return f"{stem}-{generation:03d}{dot}{suffix}" if generation else PLAN_FILE


def rows_file(generation: int) -> str:
    """The rows that belong to `plan_file`."""
    return plan_file(generation).removesuffix(".json") + ".arrow"


def write_plan(store: Store, plan: Plan, generation: int = 0) -> None:
    """Write the plan's rows, then its json, which declares the plan complete."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with (
        store.new_file(rows_file(generation)) as file,
        pa.ipc.new_file(file, PLAN_SCHEMA, options=options) as writer,
    ):
        for shard in plan.shards():
            writer.write_batch(shard)
    text = json.dumps(asdict(plan.info), indent=1, sort_keys=True)
    store.write(plan_file(generation), text.encode() + b"\n")


def read_plan(store: Store, generation: int = 0) -> PlanInfo | None:
    """Read plan.json; None if there is none, InputError if it is damaged."""
    try:
        fields = json.loads(store.read(plan_file(generation)))
        return PlanInfo(**{**fields, "class_names": tuple(fields["class_names"])})
    except FileNotFoundError:
        return None
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{store.where(plan_file(generation))} is damaged ({error!r}) or of another version: "
            "choose another --out"
        ) from error


def planned_rows(store: Store, number: int, generation: int = 0) -> pa.RecordBatch:
    """Read the rows of a shard, of PLAN_SCHEMA, by its number in the plan, from 0.

    Raises:
        InputError: plan.arrow is missing or damaged.
    """
    with _open_rows(store, generation) as reader:
        return reader.get_batch(number)


def planned_shards(store: Store, generation: int = 0) -> Iterator[pa.RecordBatch]:
    """Read the rows of each shard of a plan; raises as `planned_rows`."""
    with _open_rows(store, generation) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


@contextmanager
def _open_rows(store: Store, generation: int) -> Iterator[Any]:
    where = store.where(rows_file(generation))
    try:
        with store.open(rows_file(generation)) as file, pa.ipc.open_file(file) as reader:
            yield reader
    except FileNotFoundError as error:
        raise InputError(f"{where} is missing: choose another --out") from error
    except InputError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{where} is damaged ({error}): choose another --out") from error


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


def discard_begun(store: Store) -> None:
    """Remove everything that a first run has written."""
    store.sweep()
    discard_shards(store, 0)
    for name in (plan_file(0), rows_file(0)):
        store.remove(name)


def discard_shards(store: Store, first: int) -> None:
    """Remove the shards from number `first` on, with their manifests and rejected lists."""
    least = shard_name(first)
    for folder in (SHARDS_FOLDER, MANIFEST_FOLDER, REJECTED_FOLDER):
        for name in list(store.names(folder)):
            base = name.rpartition("/")[2]
            if base.startswith(SHARD_STEM) and base.partition(".")[0] >= least:
                store.remove(name)


def _difference(store: Store, old: PlanInfo, plan: Plan, generation: int) -> str:
    """What differs first, in words."""
    named = parameter_difference(old.parameters, plan.info.parameters)
    if named:
        return named
    try:
        before = pa.Table.from_batches(planned_shards(store, generation), PLAN_SCHEMA)
    except InputError:
        return "other images"
    if found := _source_difference(before, plan.rows):
        return found
    is_class = old.class_names != plan.info.class_names
    return "other class labels" if is_class else "other places or labels"


def parameter_difference(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """The first setting that differs, old -> new; empty if none does."""
    before, now = _flat(old), _flat(new)
    # the source's name decides which parameters it has: it is named before them
    for name in sorted(before.keys() | now.keys(), key=lambda n: (n != "saliency.source", n)):
        if before.get(name) != now.get(name):
            return f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}"
    return ""


def _flat(parameters: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
        else:
            flat[name] = value
    return flat


def _source_difference(old: pa.Table, new: pa.Table) -> str:
    """The first source that was added, removed or changed its size; empty if there is none."""
    before, now = (rows.select(["source", "num_bytes"]) for rows in (old, new))
    both = before.join(now, "source", join_type="full outer", right_suffix="_now")
    differs = pc.fill_null(pc.not_equal(both["num_bytes"], both["num_bytes_now"]), True)
    changed = both.filter(differs)
    if not changed.num_rows:
        return ""
    (row,) = changed.sort_by("source").slice(0, 1).to_pylist()
    if row["num_bytes_now"] is None:
        return f"{row['source']} is gone"
    if row["num_bytes"] is None:
        return f"{row['source']} is new"
    return f"{row['source']}: {row['num_bytes']} -> {row['num_bytes_now']} bytes"
