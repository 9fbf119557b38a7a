"""Plans a made-up listing, writes the plan, finds it again; prints seconds and peak memory.

Run by `test_plan.py` in a process of its own, so that the peak is that of the plan alone.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from pipeline.precompute.history import compare, read_history
from pipeline.precompute.plan import make_plan
from pipeline.precompute.plan_files import check_plan, planned_rows, write_plan
from pipeline.shardset.manifest import DatasetInfo, write_dataset_info
from pipeline.sources.collected import collect
from pipeline.sources.listing import BATCH_ROWS, DataPlace, Listing, RowBuffer
from pipeline.storage.storage import open_store

NUM_CLASSES = 1000


def rows(num_images: int) -> Iterator[pa.RecordBatch]:
    """Names as long as people make them, through the buffer that sources use."""
    for start in range(0, num_images, BATCH_ROWS):
        buffer = RowBuffer()
        for number in range(start, min(num_images, start + BATCH_ROWS)):
            label = f"class_{number * 7919 % NUM_CLASSES:04d}"
            source = f"{label}/holiday pictures/IMG_{number:09d}.jpg"
            buffer.add(source, 100_000 + number % 7919, label=label)
        yield buffer.take()


def main(num_images: int, folder: str) -> None:
    """Time the steps of a first run, then those of an append that finds nothing new."""
    out = open_store(folder)
    figures: dict[str, float] = {}
    place = DataPlace(store=open_store("data"))
    started, started_cpu = time.monotonic(), time.process_time()

    def lap(name: str) -> None:
        nonlocal started, started_cpu
        figures[f"{name} s"] = time.monotonic() - started
        figures[f"{name} CPU s"] = time.process_time() - started_cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        figures[f"{name} peak GiB"] = peak
        started, started_cpu = time.monotonic(), time.process_time()

    images = collect(Listing(place=place, batches=rows(num_images)))
    lap("list")
    plan = make_plan(images, {"made": "up"}, shard_images=256, shard_bytes=256 << 20)
    lap("plan")
    assert not check_plan(out, plan)
    write_plan(out, plan)
    assert check_plan(out, plan)
    lap("write")
    assert plan.num_images == num_images
    last = planned_rows(out, plan.num_shards - 1)
    lap("one job's rows")
    assert last.num_rows == num_images - 256 * (plan.num_shards - 1)
    info = DatasetInfo(
        schema_version=1,
        shards=(),
        class_names=plan.class_names,
        saliency={},
        saliency_size=56,
        plan_digest=plan.digest,
        num_rejected=0,
        versions={},
    )
    write_dataset_info(out, info)
    del plan
    compared = compare(out, read_history(out), replace(images, rows=images.rows))
    assert (compared.num_known, compared.covered) == (num_images, (0,))
    lap("append")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
