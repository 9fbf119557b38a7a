"""What the order of an epoch costs: a large epoch, resuming late in it, a thousand ranks."""

import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from training.data.order import EpochOrder

pytestmark = pytest.mark.benchmark

SHARD_IMAGES = 256
IMAGENET, BILLION = 1_280_000, 1_000_000_000
RANKS, RANK_BATCH = 1024, 32
MAX_SECONDS, MAX_MB = 1.0, 200.0


def shard_sizes(num_samples: int) -> list[int]:
    whole, rest = divmod(num_samples, SHARD_IMAGES)
    return [SHARD_IMAGES] * whole + [rest] * bool(rest)


def seconds(work: Callable[[], object]) -> float:
    """CPU time: what another process does meanwhile does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_mb(work: Callable[[], object]) -> float:
    """Most memory that was held at once, numpy's included."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def print_head(title: str) -> None:
    print(
        f"\n{title}: one thread's CPU time, {platform.machine()}, Python "
        f"{platform.python_version()}, numpy {np.__version__}"
    )


def test_an_epoch_of_imagenet_is_planned_and_resumed_at_once() -> None:
    sizes = shard_sizes(IMAGENET)
    batch = 256
    late = IMAGENET * 9 // 10 // batch * batch

    def whole() -> None:
        ids = EpochOrder(sizes, seed=0, epoch=3).sample_ids(0, IMAGENET)
        assert len(ids) == IMAGENET

    def first_batch(position: int) -> None:
        EpochOrder(sizes, seed=0, epoch=3).sample_ids(position, position + batch)

    whole()
    planned, memory = statistics.median(seconds(whole) for _ in range(3)), peak_mb(whole)
    starts, resumes = [], []
    for _ in range(51):
        starts.append(seconds(lambda: first_batch(0)))
        resumes.append(seconds(lambda: first_batch(late)))
    start, resume = statistics.median(starts), statistics.median(resumes)
    print_head(f"The order of {IMAGENET:,} samples in {len(sizes):,} shards")
    print(f"  the whole epoch                {planned:8.3f} s, {memory:.0f} MB at most")
    print(f"  to the first batch             {start * 1e3:8.3f} ms ({_range(starts)})")
    print(f"  to the batch at 90 %           {resume * 1e3:8.3f} ms ({_range(resumes)})")
    assert planned < MAX_SECONDS
    assert memory < MAX_MB
    assert resume < MAX_SECONDS
    # The same work at another place; the quarter is for what the clock cannot tell apart.
    assert resume <= 1.25 * start


def test_a_thousand_ranks_over_a_billion_samples() -> None:
    sizes = shard_sizes(BILLION)
    global_batch = RANKS * RANK_BATCH
    steps = BILLION // global_batch
    made: list[EpochOrder] = []
    plan = seconds(lambda: made.append(EpochOrder(sizes, seed=0, epoch=1)))
    order = made[0]
    memory = peak_mb(lambda: EpochOrder(sizes, seed=0, epoch=1))
    print_head(f"{RANKS:,} ranks, {BILLION:,} samples in {len(sizes):,} shards")
    print(f"  a rank plans an epoch          {plan:8.3f} s, {memory:.0f} MB at most")
    for step in (0, steps // 2, steps - 1):
        first = step * global_batch
        parts: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []

        def one_rank(rank: int, first: int = first, parts: list = parts) -> None:  # type: ignore[type-arg]
            start = first + rank * RANK_BATCH
            parts.append(order.sample_ids(start, start + RANK_BATCH))

        times = [seconds(lambda rank=rank: one_rank(rank)) for rank in range(RANKS)]  # type: ignore[misc]
        print(
            f"  a rank's samples, step {step:>6,}  {statistics.median(times) * 1e3:8.3f} ms "
            f"({_range(times)}), all ranks {sum(times):.2f} s"
        )
        together = np.concatenate(parts)
        assert len(np.unique(together)) == global_batch
        assert 0 <= together.min() <= together.max() < BILLION
        np.testing.assert_array_equal(together, order.sample_ids(first, first + global_batch))


def _range(times: list[float]) -> str:
    return f"{min(times) * 1e3:.3f} to {max(times) * 1e3:.3f}"
