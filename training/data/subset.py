"""A share of a shard set: the same samples at every start, and more of the same for a larger share.

Every shard gives the same share of its samples, those whose hash is smallest, so a smaller subset
lies within a larger one, and reading stays as sequential as it was.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.shardset.manifest import DatasetInfo
from training.randomness.draws import sample_seeds

SUBSET_DOMAIN = 0x53554253
"""Keeps these hashes apart from the order's and the draws'."""


def kept_sizes(shard_sizes: Sequence[int], fraction: float) -> list[int]:
    """How many samples of each shard belong to the subset: its share, rounded up."""
    # Without the rounding, 0.1 * 30 would be 3.0000000000000004, and 4 samples.
    return [math.ceil(round(fraction * size, 9)) for size in shard_sizes]


def num_used(info: DatasetInfo, fraction: float) -> int:
    """How many samples of a set a run sees."""
    return sum(kept_sizes([shard.num_images for shard in info.shards], fraction))


class Subset:
    """Numbers the samples of a subset from 0, in the order of the whole set.

    Args:
        shard_sizes: samples in each shard.
        fraction: of the samples, in (0, 1]; 1 numbers them as the whole set does.
    """

    def __init__(self, shard_sizes: Sequence[int], fraction: float) -> None:
        self._given = (tuple(shard_sizes), fraction)
        self.sizes = kept_sizes(shard_sizes, fraction)
        self._whole = fraction == 1.0
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        kept = np.asarray(self.sizes, dtype=np.int64)
        self._shard_sizes = sizes
        self._first_ids = np.cumsum(sizes) - sizes
        self._ends = np.cumsum(kept)
        # A window's shards, and some: what a shard keeps is found anew by sorting its samples.
        self._members = lru_cache(maxsize=64)(self._kept_of)

    def __reduce__(self) -> tuple[type["Subset"], tuple[tuple[int, ...], float]]:
        """Travels to loader processes without what it remembers."""
        return Subset, self._given

    def sample_ids(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row numbers in the whole set, int64, of samples by their numbers in the subset."""
        if self._whole:
            return numbers
        shards = np.searchsorted(self._ends, numbers, side="right")
        ids = np.empty_like(numbers)
        for shard in np.unique(shards):
            here = shards == shard
            first = int(self._ends[shard]) - self.sizes[shard]
            ids[here] = self._members(int(shard))[numbers[here] - first]
        return ids

    def _kept_of(self, shard: int) -> NDArray[np.int64]:
        first = int(self._first_ids[shard])
        ids = np.arange(first, first + int(self._shard_sizes[shard]), dtype=np.int64)
        hashes = sample_seeds(SUBSET_DOMAIN, 0, ids)
        kept: NDArray[np.int64] = np.sort(
            ids[np.argsort(hashes, kind="stable")[: self.sizes[shard]]]
        )
        return kept
