"""A plan for ten and for a hundred million images: seconds and peak memory, on a made-up listing.

``python -m tests.benchmarks.test_plan FOLDER ROWS [append]`` measures any number of images.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.precompute.amend import versions_of, write_versions
from pipeline.precompute.history import check_plan, new_images, read_history
from pipeline.precompute.plan import PlanInfo, make_plan, planned_rows, write_plan
from pipeline.shardset.manifest import DatasetInfo, write_dataset_info
from pipeline.sources.listing import Collected, DataStore, Listing, Row, collect
from pipeline.storage.storage import open_store
from tests.benchmarks.timing import machine

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
LABELS = [f"class_{number:04d}" for number in range(1000)]
NAMES = [f"{label}/holiday pictures/IMG_" for label in LABELS]
DATA = DataStore(store=open_store("data"))


def rows(num_images: int) -> Iterator[Row]:
    """Names as long as people make them."""
    for number in range(num_images):
        at = number * 7919 % len(LABELS)
        source = f"{NAMES[at]}{number:09d}.jpg"
        yield {"source": source, "num_bytes": 100_000 + number % 7919, "label": LABELS[at]}


def measure(folder: str, num_images: int, *, append: bool) -> dict[str, float]:
    """CPU seconds of the steps of a first run, and of an append that finds nothing new.

    "made up" is what the listing takes alone; "list" contains it once more.
    """
    out = open_store(folder)
    laps = {"": time.process_time()}
    assert sum(1 for _ in rows(num_images)) == num_images
    laps["made up"] = time.process_time()
    images = collect(Listing(data=DATA, rows=rows(num_images)))
    laps["list"] = time.process_time()
    plan = make_plan(images, {"made": "up"}, shard_images=256, shard_bytes=256 << 20)
    laps["plan"] = time.process_time()
    assert check_plan(out, DATA, plan) is None
    write_versions(out, map(versions_of, plan.rows), 0)
    write_plan(out, plan)
    laps["write"] = time.process_time()
    assert check_plan(out, DATA, plan) == plan.info
    assert plan.info.num_images == num_images
    last = planned_rows(out, plan.info.num_shards - 1)
    assert last.num_rows == num_images - 256 * (plan.info.num_shards - 1)
    if append:
        info = plan.info
        del plan
        laps["check"] = time.process_time()
        find_nothing_new(folder, images, info)
        laps["append"] = time.process_time()
    starts, ends = list(laps.values())[:-1], list(laps.items())[1:]
    seconds = {name: end - start for (name, end), start in zip(ends, starts, strict=True)}
    return seconds | {"GiB": peak_kib() / (1 << 20)}


def peak_kib() -> int:
    """Most memory of this process; its `ru_maxrss` would be that of pytest, which started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def find_nothing_new(folder: str, images: Collected, plan: PlanInfo) -> None:
    """As an append does to a finished set."""
    out = open_store(folder)
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
    new, covered, _ = new_images(out, DATA, read_history(out), images)
    assert (new.rows.num_rows, covered) == (0, (0,))


@pytest.mark.parametrize(
    ("num_images", "max_seconds", "max_gib", "max_append"),
    [(10_000_000, 60.0, 1.5, 100.0), (100_000_000, 600.0, 5.5, None)],
)
def test_a_plan_of_many_images(
    tmp_path: Path, num_images: int, max_seconds: float, max_gib: float, max_append: float | None
) -> None:
    """In a process of its own, so that the peak is that of the plan alone."""
    command = [sys.executable, "-m", "tests.benchmarks.test_plan", str(tmp_path), str(num_images)]
    command += [] if max_append is None else ["append"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    print(f"\nplan of {num_images:,} images, CPU seconds of one process: {machine('pyarrow')}")
    for name, value in figures.items():
        print(f"  {name:<8} {value:8.2f}")
    assert figures["list"] + figures["plan"] + figures["write"] <= max_seconds
    assert figures["GiB"] <= max_gib
    assert max_append is None or figures["append"] <= max_append


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), append="append" in sys.argv[3:])))
