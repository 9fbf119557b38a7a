"""A plan for ten million images: seconds and peak memory, on a made-up listing."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.precompute.history import check_plan, new_images, read_history
from pipeline.precompute.plan import make_plan, planned_rows, write_plan
from pipeline.shardset.manifest import DatasetInfo, write_dataset_info
from pipeline.sources.listing import DataStore, Listing, Row, collect
from pipeline.storage.storage import open_store
from tests.benchmarks.timing import machine

pytestmark = pytest.mark.benchmark

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES, NUM_CLASSES = 10_000_000, 1000
MAX_GIB, MAX_SECONDS = 4.0, 300.0


def rows() -> Iterator[Row]:
    """Names as long as people make them."""
    for number in range(NUM_IMAGES):
        label = f"class_{number * 7919 % NUM_CLASSES:04d}"
        source = f"{label}/holiday pictures/IMG_{number:09d}.jpg"
        yield {"source": source, "num_bytes": 100_000 + number % 7919, "label": label}


def measure(folder: str) -> dict[str, float]:
    """CPU seconds of the steps of a first run, and of an append that finds nothing new."""
    out, data = open_store(folder), DataStore(store=open_store("data"))
    laps = {"": time.process_time()}
    images = collect(Listing(data=data, rows=rows()))
    laps["list"] = time.process_time()
    plan = make_plan(images, {"made": "up"}, shard_images=256, shard_bytes=256 << 20)
    laps["plan"] = time.process_time()
    assert check_plan(out, data, plan) is None
    write_plan(out, plan)
    assert check_plan(out, data, plan) == plan.info
    laps["write"] = time.process_time()
    assert plan.info.num_images == NUM_IMAGES
    last = planned_rows(out, plan.info.num_shards - 1)
    assert last.num_rows == NUM_IMAGES - 256 * (plan.info.num_shards - 1)
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
    new, covered, _ = new_images(out, data, read_history(out), images)
    assert (new.rows.num_rows, covered) == (0, (0,))
    laps["append"] = time.process_time()
    starts, ends = list(laps.values())[:-1], list(laps.items())[1:]
    seconds = {name: end - start for (name, end), start in zip(ends, starts, strict=True)}
    return seconds | {"GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)}


def test_ten_million_images(tmp_path: Path) -> None:
    """In a process of its own, so that the peak is that of the plan alone."""
    command = [sys.executable, "-m", "tests.benchmarks.test_plan", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"\nplan of {NUM_IMAGES:,} images, CPU seconds of one process: {machine('pyarrow')}")
    for name, value in figures.items():
        print(f"  {name:<8} {value:8.2f}")
    assert figures["list"] + figures["plan"] + figures["write"] <= MAX_SECONDS
    assert figures["append"] <= MAX_SECONDS
    assert figures["GiB"] <= MAX_GIB


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
