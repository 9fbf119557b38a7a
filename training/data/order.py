"""The order of an epoch: a pure function of (shard sizes, seed, epoch), and subsets of a set.

With a selection it is one of (selection, shard sizes, seed, epoch). It does not depend on the
number of ranks or loader workers.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.shardset.manifest import DatasetInfo
from training.data.selection import read_selection
from training.randomness.draws import sample_seeds

SET_BITS = 40
"""A sample's id is its row; in the set number s, of several that one run reads, row + s * 2^40."""
ROWS = (1 << SET_BITS) - 1
SHARD_ORDER_DOMAIN, WINDOW_DOMAIN, SUBSET_DOMAIN = 0x53484152, 0x57494E44, 0x53554253
"""Keep these hashes apart from each other and from the draws of samples."""


class EpochOrder:
    """The order of one epoch: shards shuffled globally, samples within windows of shards.

    Reading stays close to sequential, and only the windows that are asked for are laid out. Of
    every shard the same fraction of its samples is used, in (0, 1], those whose hash is smallest: a
    smaller subset lies within a larger one. Or the rows of a selection are used, `chosen`.

    `firsts` are the ids of the first samples of the shards; None: the shards are one set.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        seed: int,
        epoch: int,
        window: int = 16,
        fraction: float = 1.0,
        chosen: NDArray[np.int64] | None = None,
        firsts: NDArray[np.int64] | None = None,
    ) -> None:
        assert chosen is None or firsts is None
        whole, self._chosen = np.asarray(shard_sizes, dtype=np.int64), chosen
        self._shards = _shuffle(len(whole), seed + SHARD_ORDER_DOMAIN, epoch)
        if chosen is not None:  # as a set of these alone
            whole = np.diff(np.searchsorted(chosen, np.append(0, np.cumsum(whole))))
            self._shards = self._shards[whole[self._shards] > 0]
        firsts = np.cumsum(whole) - whole if firsts is None else firsts
        kept = np.asarray(kept_sizes(whole.tolist(), fraction), dtype=np.int64)
        self._spans = np.stack([firsts, whole, kept], axis=1)[self._shards]
        """First row, size and used samples of each shard, in the epoch's order."""
        self._seed, self._epoch, self._window = seed, epoch, window
        ends = np.cumsum(self._spans[:, 2])
        self._window_ends = np.append(ends[window - 1 : -1 : window], ends[-1:])
        self._laid_out: dict[int, NDArray[np.int64]] = {}

    def sample_ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The ids of the samples at positions ``start`` up to ``stop`` of the epoch."""
        parts = [np.zeros(0, np.int64)]
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
        if window not in self._laid_out:
            spans = self._spans[window * self._window : (window + 1) * self._window]
            ids = np.concatenate([_used_rows(*span) for span in spans.tolist()])
            order = _shuffle(len(ids), self._seed + WINDOW_DOMAIN + window, self._epoch)
            ids = ids if self._chosen is None else self._chosen[ids]
            self._laid_out = {window: ids[order]}
        return self._laid_out[window]


def _shuffle(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.argsort(sample_seeds(seed, epoch, np.arange(count, dtype=np.int64)), kind="stable")


def _used_rows(first: int, size: int, used: int) -> NDArray[np.int64]:
    """Ids of the samples that a shard gives, of those from `first` on."""
    ids = np.arange(first, first + size, dtype=np.int64)
    if used == size:
        return ids
    smallest = np.argsort(sample_seeds(SUBSET_DOMAIN, 0, ids & ROWS), kind="stable")[:used]
    return np.sort(ids[smallest])


def kept_sizes(shard_sizes: Sequence[int], fraction: float) -> list[int]:
    """How many samples of each shard are used: its share, rounded up."""
    # Without the rounding, 0.1 * 30 would be 3.0000000000000004, and 4 samples.
    return [math.ceil(round(fraction * size, 9)) for size in shard_sizes]


def num_used(info: DatasetInfo, fraction: float, selection: Path | None = None) -> int:
    """How many samples of a set a run sees; InputError: the selection is not of this set."""
    if selection is not None:
        return len(read_selection(selection, info).numbers)
    return sum(kept_sizes([shard.num_images for shard in info.shards], fraction))
