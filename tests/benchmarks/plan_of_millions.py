"""Plans a made-up listing, writes the plan, finds it again; prints seconds and peak memory.

Run by `test_plan.py` in a process of its own, so that the peak is that of the plan alone.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator

from pipeline.precompute.history import new_images, read_history
from pipeline.precompute.plan import make_plan
from pipeline.precompute.plan_files import check_plan, planned_rows, write_plan
from pipeline.shardset.manifest import DatasetInfo, write_dataset_info
from pipeline.sources.listing import DataPlace, Listing, Row, collect
from pipeline.storage.storage import open_store

NUM_CLASSES = 1000


def rows(num_images: int) -> Iterator[Row]:
    """Names as long as people make them."""
    for number in range(num_images):
        label = f"class_{number * 7919 % NUM_CLASSES:04d}"
        source = f"{label}/holiday pictures/IMG_{number:09d}.jpg"
        yield {"source": source, "num_bytes": 100_000 + number % 7919, "label": label}


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

    images = collect(Listing(place=place, rows=rows(num_images)))
    lap("list")
    plan = make_plan(images, {"made": "up"}, shard_images=256, shard_bytes=256 << 20)
    lap("plan")
    assert not check_plan(out, plan)
    write_plan(out, plan)
    assert check_plan(out, plan)
    lap("write")
    assert plan.info.num_images == num_images
    last = planned_rows(out, plan.info.num_shards - 1)
    lap("one job's rows")
    assert last.num_rows == num_images - 256 * (plan.info.num_shards - 1)
    info = DatasetInfo(
        schema_version=1,
        shards=(),
        class_names=plan.info.class_names,
        saliency={},
        saliency_size=56,
        plan_digest=plan.info.digest,
        num_rejected=0,
        versions={},
    )
    write_dataset_info(out, info)
    del plan
    new, covered = new_images(out, read_history(out), images)
    assert (new.rows.num_rows, covered) == (0, (0,))
    lap("append")
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
