"""Means of a step's numbers between two lines of the record, and where the time went."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.core.distributed import mean_over_ranks

Item = TypeVar("Item")


class Interval:
    """Sums scalars on the device, so that nothing is read back before the interval ends.

    The sums are part of a checkpoint: an interval that a crash cut in two has the same means.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._constants: dict[str, float] = {}
        self._waited = 0.0
        self._timed_steps = 0
        self._started = time.perf_counter()

    def add(self, scalars: dict[str, Tensor]) -> None:
        """Adds one step's scalars."""
        for name, value in scalars.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._steps += 1
        self._timed_steps += 1

    def set(self, **values: float) -> None:
        """Remembers numbers of which only the last counts."""
        self._constants.update(values)

    def start_clock(self) -> None:
        """Starts the timings anew."""
        self._started, self._waited, self._timed_steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the timings."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - before

    def timed(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yields the items, and counts the time of waiting for each."""
        iterator = iter(items)
        while True:
            before = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield item

    def finish(self, batch_size: int) -> dict[str, float]:
        """Means over steps and ranks, and timings; starts the next interval."""
        self.average_over_ranks()
        values = {name: float(total) / self._steps for name, total in self._sums.items()}
        seconds = time.perf_counter() - self._started
        values |= self._constants
        values["images_per_second"] = self._timed_steps * batch_size / seconds
        values["data_wait_share"] = self._waited / seconds
        self._sums, self._steps = {}, 0
        self.start_clock()
        return values

    def average_over_ranks(self) -> None:
        """Makes the sums the same on every rank: their mean."""
        if self._sums:
            names = sorted(self._sums)
            means = mean_over_ranks(torch.stack([self._sums[name].float() for name in names]))
            self._sums = dict(zip(names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Sums and count, for a checkpoint."""
        return {"sums": self._sums, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the sums of a checkpoint."""
        self._sums, self._steps = dict(state["sums"]), int(state["steps"])
