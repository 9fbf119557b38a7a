"""The order of an epoch: a pure function of (shard sizes, seed, epoch), and subsets of a set.

It does not depend on the number of ranks or loader workers.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.shardset.manifest import DatasetInfo
from training.randomness.draws import sample_seeds

SHARD_ORDER_DOMAIN, WINDOW_DOMAIN, SUBSET_DOMAIN = 0x53484152, 0x57494E44, 0x53554253
"""Keep these hashes apart from each other and from the draws of samples."""


class EpochOrder:
    """The order of one epoch: shards shuffled globally, samples within windows of shards.

    Reading stays close to sequential, and only the windows that are asked for are laid out.

    Args:
        shard_sizes: samples in each shard.
        seed: the run's seed.
        epoch: which epoch.
        window: shards whose samples are mixed.
    """

    def __init__(
        self, shard_sizes: Sequence[int], *, seed: int, epoch: int, window: int = 16
    ) -> None:
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        self._shards = _shuffle(len(sizes), seed + SHARD_ORDER_DOMAIN, epoch)
        self._first_ids = (np.cumsum(sizes) - sizes)[self._shards]
        self._sizes = sizes[self._shards]
        self._seed, self._epoch, self._window = seed, epoch, window
        ends = np.cumsum(self._sizes)
        self._window_ends = np.append(ends[window - 1 : -1 : window], ends[-1:])
        self._laid_out: tuple[int, NDArray[np.int64]] | None = None

    def sample_ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at positions ``start`` up to ``stop`` of the epoch."""
        parts = []
        while start < stop:
            window = self.window_of(start)
            begin = int(self._window_ends[window - 1]) if window else 0
            end = min(stop, int(self._window_ends[window]))
            parts.append(self._lay_out(window)[start - begin : end - begin])
            start = end
        return np.concatenate(parts)

    def window_of(self, position: int) -> int:
        """The window that a position of the epoch lies in."""
        return int(np.searchsorted(self._window_ends, position, side="right"))

    def shards_from(self, window: int, count: int) -> list[int]:
        """The shards of ``count`` windows, from this one on."""
        shards = self._shards[window * self._window : (window + count) * self._window]
        return [int(shard) for shard in shards]

    def _lay_out(self, window: int) -> NDArray[np.int64]:
        if self._laid_out is not None and self._laid_out[0] == window:
            return self._laid_out[1]
        shards = slice(window * self._window, (window + 1) * self._window)
        spans = zip(self._first_ids[shards], self._sizes[shards], strict=True)
        ids = np.concatenate([np.arange(first, first + size) for first, size in spans])
        ids = ids[_shuffle(len(ids), self._seed + WINDOW_DOMAIN + window, self._epoch)]
        self._laid_out = (window, ids)
        return ids


def _shuffle(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.argsort(sample_seeds(seed, epoch, np.arange(count, dtype=np.int64)), kind="stable")


def kept_sizes(shard_sizes: Sequence[int], fraction: float) -> list[int]:
    """How many samples of each shard belong to the subset: its share, rounded up."""
    # Without the rounding, 0.1 * 30 would be 3.0000000000000004, and 4 samples.
    return [math.ceil(round(fraction * size, 9)) for size in shard_sizes]


def num_used(info: DatasetInfo, fraction: float) -> int:
    """How many samples of a set a run sees."""
    return sum(kept_sizes([shard.num_images for shard in info.shards], fraction))


class Subset:
    """A share of a shard set, numbered from 0 in the order of the whole set.

    Every shard gives the same share of its samples, those whose hash is smallest: a smaller subset
    lies within a larger one, and reading stays sequential.

    Args:
        shard_sizes: samples in each shard.
        fraction: of the samples, in (0, 1]; 1 numbers them as the whole set does.
    """

    def __init__(self, shard_sizes: Sequence[int], fraction: float) -> None:
        self.sizes = kept_sizes(shard_sizes, fraction)
        self._whole = fraction == 1.0
        self._shard_sizes = list(shard_sizes)
        self._first_ids = (np.cumsum(shard_sizes) - np.asarray(shard_sizes)).tolist()
        self._ends = np.cumsum(self.sizes)

    def sample_ids(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers in the whole set of samples by their numbers in the subset."""
        if self._whole:
            return numbers
        shards = np.searchsorted(self._ends, numbers, side="right")
        ids = np.empty_like(numbers)
        for shard in np.unique(shards).tolist():
            here, size = shards == shard, self.sizes[shard]
            kept = _kept_ids(self._first_ids[shard], self._shard_sizes[shard], size)
            ids[here] = kept[numbers[here] - (self._ends[shard] - size)]
        return ids


# At least the shards of a window: finding what a shard keeps sorts its samples.
@lru_cache(maxsize=64)
def _kept_ids(first: int, size: int, kept: int) -> NDArray[np.int64]:
    """Rows of the samples that a shard gives, of those from `first` on."""
    ids = np.arange(first, first + size, dtype=np.int64)
    hashes = sample_seeds(SUBSET_DOMAIN, 0, ids)
    rows: NDArray[np.int64] = np.sort(ids[np.argsort(hashes, kind="stable")[:kept]])
    return rows
