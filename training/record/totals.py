"""Numbers that add up over steps and ranks: means, timings, counts, and a digest of the samples."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.core.distributed import mean_over_ranks, sum_over_ranks
from training.randomness.draws import sample_seeds

WORD = 1 << 64
PROVENANCE_DOMAIN = 0x50524F56
"""Separates the hashes of the digest from the draws of samples and of their order."""


class Interval:
    """Means of scalars over the steps between two lines of the record, and where the time went.

    The scalars are summed on the device, so that nothing is read back before the interval ends.
    `sums` and `steps` belong in a checkpoint: an interval that a crash cut in two has the same
    means.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self._constants: dict[str, float] = {}
        self.start_clock()

    def add(self, scalars: dict[str, Tensor], **constants: float) -> None:
        """Adds one step's scalars, and replaces the constants."""
        for name, value in scalars.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self._constants |= constants
        self.steps += 1
        self._timed_steps += 1

    def start_clock(self) -> None:
        """Starts the timings anew, with waiting for data."""
        self._started, self._waited, self._timed_steps = time.perf_counter(), 0.0, 0
        self.start_waiting()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the timings."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - before

    def start_waiting(self) -> None:
        """Counts the time from here to `stop_waiting` as waiting for data."""
        self._waits_since = time.perf_counter()

    def stop_waiting(self) -> None:
        """Ends what `start_waiting` or `start_clock` began."""
        self._waited += time.perf_counter() - self._waits_since

    def finish(self, batch_size: int) -> dict[str, float]:
        """Means over steps and ranks, and timings; starts the next interval."""
        self.average_over_ranks()
        seconds = time.perf_counter() - self._started
        values = {name: float(total) / self.steps for name, total in self.sums.items()}
        values |= self._constants
        values["images_per_second"] = self._timed_steps * batch_size / seconds
        values["data_wait_share"] = self._waited / seconds
        self.sums, self.steps = {}, 0
        self.start_clock()
        return values

    def average_over_ranks(self) -> None:
        """Makes the sums the same on every rank: their mean."""
        if self.sums:
            names = sorted(self.sums)
            means = mean_over_ranks(torch.stack([self.sums[name].float() for name in names]))
            self.sums = dict(zip(names, means, strict=True))


class Tally:
    """Totals of named whole numbers over steps, ranks and restarts, modulo 2^64.

    Each rank adds its own numbers; `settle`, which every rank calls, adds up those of all ranks in
    `totals`, which belong in a checkpoint.
    """

    def __init__(self, *names: str) -> None:
        self.totals = dict.fromkeys(names, 0)
        self._new = dict.fromkeys(names, 0)

    def add(self, **numbers: int) -> None:
        """Adds numbers of this rank."""
        for name, number in numbers.items():
            self._new[name] = (self._new[name] + number) % WORD

    def settle(self) -> dict[str, int]:
        """The totals over all steps and ranks; called by every rank."""
        sums = sum_over_ranks(list(self._new.values()))
        for name, number in zip(self._new, sums, strict=True):
            self.totals[name] = (self.totals[name] + number) % WORD
            self._new[name] = 0
        return dict(self.totals)


def samples_digest(step: int, places: range, sample_ids_B: NDArray[np.int64]) -> int:
    """The part of a run's digest that one rank's share of a global step adds, in [0, 2^64).

    The digest of a run is the sum, modulo 2^64, of a hash of (step, place in the global batch,
    sample) over all that it has trained on. So each rank sums its own share: its places in the
    global batch, and the row numbers of its samples.
    """
    assert len(places) == len(sample_ids_B), (places, len(sample_ids_B))
    hashes_B = sample_seeds(PROVENANCE_DOMAIN, step, sample_ids_B)
    # An odd factor for every place: the same samples in another order are another batch.
    factors_B = np.arange(places.start, places.stop, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    return int((hashes_B * factors_B).sum(dtype=np.uint64))
