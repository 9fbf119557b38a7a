"""Plans on disk: plan.json and plan.arrow beside the shards, plan-001.* for the first append, ...

plan.arrow has one record batch per shard, so that a job reads only its own rows. (Parquet with a
row group per shard takes a footer of megabytes and a second to open at 40,000 shards.)
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from typing import Any

import pyarrow as pa

from pipeline.precompute.plan import Plan, PlanInfo
from pipeline.shardset.manifest import SetError
from pipeline.shardset.schema import (
    MANIFEST_FOLDER,
    PLAN_FILE,
    REJECTED_FOLDER,
    SHARDS_FOLDER,
    shard_name,
)
from pipeline.sources.listing import PLAN_SCHEMA
from pipeline.storage.store import Store, StoreError

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
    """Read plan.json; None if there is none, SetError if it is damaged."""
    name = plan_file(generation)
    try:
        data = store.read(name)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(data)
        return PlanInfo(**{**fields, "class_names": tuple(fields["class_names"])})
    except (ValueError, KeyError, TypeError) as error:
        raise SetError(
            f"{store.where(name)} is damaged ({error!r}) or of another version: "
            "choose another --out"
        ) from error


def read_plans(store: Store) -> Iterator[PlanInfo]:
    """Read the plans of a set: the first one, and one more for each append."""
    for generation in count():
        plan = read_plan(store, generation)
        if plan is None:
            return
        yield plan


def planned_rows(store: Store, number: int, generation: int = 0) -> pa.RecordBatch:
    """Read the rows of a shard, of PLAN_SCHEMA, by its number in the plan, from 0.

    Raises:
        SetError: plan.arrow is missing or damaged.
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
        raise SetError(f"{where} is missing: choose another --out") from error
    except StoreError:
        raise
    except (pa.ArrowException, ValueError) as error:
        raise SetError(f"{where} is damaged ({error}): choose another --out") from error


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
