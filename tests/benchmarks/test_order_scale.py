"""What the order of an epoch costs: all of it, and going on late in it."""

import time
import tracemalloc

import pytest

from tests.benchmarks.timing import in_turns, machine, show_medians
from training.data.order import EpochOrder

pytestmark = pytest.mark.benchmark

IMAGENET, SHARD_IMAGES, BATCH = 1_280_000, 256, 256
LATE = IMAGENET * 9 // 10 // BATCH * BATCH
SIZES = [SHARD_IMAGES] * (IMAGENET // SHARD_IMAGES)
MAX_SECONDS, MAX_MB = 1.0, 200.0


def ids(first: int, end: int) -> None:
    assert len(EpochOrder(SIZES, seed=0, epoch=3).sample_ids(first, end)) == end - first


def test_an_epoch_of_imagenet_is_planned_and_resumed_at_once() -> None:
    times = in_turns(
        {
            "to the first batch": lambda _: ids(0, BATCH),
            "to the batch at 90 %": lambda _: ids(LATE, LATE + BATCH),
        },
        51,
    )
    tracemalloc.start()
    started = time.process_time()
    ids(0, IMAGENET)
    planned = time.process_time() - started
    megabytes = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    print(f"\nThe order of {IMAGENET:,} samples, one thread's CPU time: {machine('numpy')}")
    print(f"  the whole epoch {planned:.3f} s, {megabytes:.0f} MB at most")
    ms = show_medians(times, "ms", 1e3)
    assert planned < MAX_SECONDS
    assert megabytes < MAX_MB
    # The same work at another place; the quarter is for what the clock cannot tell apart.
    assert ms["to the batch at 90 %"] <= 1.25 * ms["to the first batch"]
