"""The plan as it lies with the shards: plan.json and plan.arrow; appended plans beside them.

plan.arrow has one record batch per shard, so that a job reads its own rows and no others. (Parquet
with a row group per shard takes a footer of megabytes and a second to open at 40,000 shards.)
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.precompute.plan import Plan, source_hashes, take_rows
from pipeline.shardset.schema import (
    DATASET_FILE,
    MANIFEST_FOLDER,
    PLAN_FILE,
    REJECTED_FOLDER,
    SHARDS_FOLDER,
    shard_name,
)
from pipeline.sources.collected import PLAN_SCHEMA
from pipeline.storage.storage import Store, StoreError

SHARDS_AT_ONCE = 256
SHARD_STEM = shard_name(0).rstrip("0")


@dataclass(frozen=True)
class WrittenPlan:
    """What plan.json says; see `Plan`."""

    digest: str
    parameters: dict[str, object]
    class_names: tuple[str, ...]
    num_images: int
    num_shards: int
    first_shard: int


def plan_file(generation: int) -> str:
    """plan.json for the first plan of a set, plan-001.json for what was appended first."""
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
    about = {
        "digest": plan.digest,
        "parameters": plan.parameters,
        "class_names": plan.class_names,
        "num_images": plan.num_images,
        "num_shards": plan.num_shards,
        "first_shard": plan.first_shard,
    }
    text = json.dumps(about, indent=1, sort_keys=True)
    store.write(plan_file(generation), text.encode() + b"\n")


def read_plan(store: Store, generation: int = 0) -> WrittenPlan | None:
    """What plan.json says; None where there is none.

    Raises:
        InputError: it is damaged.
    """
    try:
        fields = json.loads(store.read(plan_file(generation)))
        return WrittenPlan(
            digest=fields["digest"],
            parameters=dict(fields["parameters"]),
            class_names=tuple(fields["class_names"]),
            num_images=int(fields["num_images"]),
            num_shards=int(fields["num_shards"]),
            first_shard=int(fields["first_shard"]),
        )
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
    """The rows of one shard of a plan, of PLAN_SCHEMA.

    Args:
        store: of the shard set.
        number: of the shard in its plan, from 0.
        generation: which plan.

    Raises:
        InputError: the plan is not there or damaged.
    """
    with _open_rows(store, generation) as reader:
        return reader.get_batch(number)


def planned_sources(store: Store, generation: int = 0) -> Iterator[pa.RecordBatch]:
    """The rows of all shards of a plan, many shards at a time; raises as `planned_rows` does."""
    with _open_rows(store, generation) as reader:
        for start in range(0, reader.num_record_batches, SHARDS_AT_ONCE):
            stop = min(start + SHARDS_AT_ONCE, reader.num_record_batches)
            some = [reader.get_batch(number) for number in range(start, stop)]
            yield from pa.Table.from_batches(some).combine_chunks().to_batches()


def check_plan(store: Store, plan: Plan, generation: int = 0) -> bool:
    """Whether the set was begun with this plan; False where nothing was begun.

    Raises:
        InputError: begun with another plan; names what differs, old -> new.
    """
    old = read_plan(store, generation)
    if old is None:
        has_shards = next(store.names(SHARDS_FOLDER), None) is not None
        if generation == 0 and (has_shards or store.size(DATASET_FILE) is not None):
            raise InputError(f"{store.url} holds shards but no {PLAN_FILE}: choose another --out")
        return False
    if old.digest == plan.digest:
        return True
    named = difference(store, old, plan, generation)
    what = f"another plan ({named})" if generation == 0 else f"an append of other images ({named})"
    way_out = "choose another --out, or remove this one"
    if generation:
        way_out = f"finish that one first, or remove {plan_file(generation)}"
    elif named.endswith(" is new"):
        way_out = "choose another --out, or add new images to a finished set with --append"
    raise InputError(f"{store.url} was begun with {what}: {way_out}")


def discard_begun(store: Store) -> None:
    """Remove what a first run has written that came to nothing."""
    store.sweep()
    discard_shards(store, 0)
    for name in (plan_file(0), rows_file(0)):
        store.remove(name)


def discard_shards(store: Store, first: int) -> None:
    """Remove the shards from number `first` on, with what belongs to them."""
    least = shard_name(first)
    for folder in (SHARDS_FOLDER, MANIFEST_FOLDER, REJECTED_FOLDER):
        for name in list(store.names(folder)):
            base = name.rpartition("/")[2]
            if base.startswith(SHARD_STEM) and base.partition(".")[0] >= least:
                store.remove(name)


def difference(store: Store, old: WrittenPlan, plan: Plan, generation: int) -> str:
    """What differs first, in words."""
    named = parameter_difference(old.parameters, plan.parameters)
    if named:
        return named
    try:
        before = pa.Table.from_batches(planned_sources(store, generation), PLAN_SCHEMA)
    except InputError:
        return "other images"
    found = _source_difference(before.combine_chunks(), plan.rows)
    if found:
        return found
    return "other class labels" if old.class_names != plan.class_names else "other places or labels"


def parameter_difference(old: Mapping[str, object], new: Mapping[str, object]) -> str:
    """The first setting that differs, old -> new; empty where none does."""
    before, now = _flat(old), _flat(new)
    # the source's name decides which parameters it has: it is named before them
    for name in sorted(before.keys() | now.keys(), key=lambda n: (n != "saliency.source", n)):
        if before.get(name) != now.get(name):
            return f"{name}: {before.get(name, 'none')} -> {now.get(name, 'none')}"
    return ""


def _source_difference(old: pa.Table, new: pa.Table) -> str:
    """The first source that came, went or changed its size; empty where none did."""
    before, now = (source_hashes(rows["source"], 8)[:, 0] for rows in (old, new))
    gone = _least(old, np.flatnonzero(~np.isin(before, now)))
    came = _least(new, np.flatnonzero(~np.isin(now, before)))
    by_hash = np.argsort(before)
    places = np.minimum(np.searchsorted(before[by_hash], now), max(len(before) - 1, 0))
    there = before[by_hash][places] == now if len(before) else np.zeros(len(now), bool)
    old_sizes = old["num_bytes"].to_numpy()[by_hash][places] if len(before) else before
    sizes = new["num_bytes"].to_numpy()
    changed = _least(new, np.flatnonzero(there & (old_sizes != sizes)))
    least = min((name for name in (gone, came, changed) if name is not None), default=None)
    if least is None:
        return ""
    if least == gone:
        return f"{least} is gone"
    if least == came:
        return f"{least} is new"
    row = pc.index(new["source"], pa.scalar(least, pa.large_string())).as_py()
    return f"{least}: {old_sizes[row]} -> {sizes[row]} bytes"


def _least(rows: pa.Table, numbers: NDArray[np.int64]) -> str | None:
    if not len(numbers):
        return None
    return str(pc.min(take_rows(rows, numbers).column("source")).as_py())


def _flat(parameters: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": v for inner, v in value.items()})
        else:
            flat[name] = value
    return flat


@contextmanager
def _open_rows(store: Store, generation: int) -> Iterator[Any]:
    place = store.where(rows_file(generation))
    try:
        with store.open(rows_file(generation)) as file, pa.ipc.open_file(file) as reader:
            yield reader
    except FileNotFoundError as error:
        raise InputError(f"{place} is missing: choose another --out") from error
    except InputError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{place} is damaged ({error}): choose another --out") from error
