"""The order of an epoch: a pure function of (shard sizes, seed, epoch).

It knows nothing of ranks or loader workers, so it is the same for any number of them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.randomness.draws import sample_seeds

SHARD_ORDER_DOMAIN, WINDOW_DOMAIN = 0x53484152, 0x57494E44
"""Keep the order's hashes apart from each other and from the draws of samples."""


class EpochOrder:
    """The order of one epoch: shards shuffled globally, samples within windows of shards.

    Reading stays close to sequential, and only the windows that are asked for are ever laid out.

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
        shuffled = _shuffle(len(sizes), seed + SHARD_ORDER_DOMAIN, epoch)
        self._shards = shuffled
        self._first_ids = (np.cumsum(sizes) - sizes)[shuffled]
        self._sizes = sizes[shuffled]
        self._seed, self._epoch, self._window = seed, epoch, window
        ends = np.cumsum(self._sizes)
        self._window_ends = np.append(ends[window - 1 : -1 : window], ends[-1:])
        self._laid_out: tuple[int, NDArray[np.int64]] | None = None

    def sample_ids(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at positions ``start`` up to ``stop`` of the epoch, int64."""
        parts = []
        while start < stop:
            window = self.window_of(start)
            begin = int(self._window_ends[window - 1]) if window else 0
            end = min(stop, int(self._window_ends[window]))
            parts.append(self._lay_out(window)[start - begin : end - begin])
            start = end
        return np.concatenate(parts)

    def window_of(self, position: int) -> int:
        """The number of the window that a position of the epoch lies in."""
        return int(np.searchsorted(self._window_ends, position, side="right"))

    def shards_from(self, window: int, count: int) -> list[int]:
        """The shards of a window and of those after it, so many windows in all."""
        shards = self._shards[window * self._window : (window + count) * self._window]
        return [int(shard) for shard in shards]

    def _lay_out(self, window: int) -> NDArray[np.int64]:
        if self._laid_out is not None and self._laid_out[0] == window:
            return self._laid_out[1]
        shards = slice(window * self._window, (window + 1) * self._window)
        ids = np.concatenate(
            [
                np.arange(first, first + size)
                for first, size in zip(self._first_ids[shards], self._sizes[shards], strict=True)
            ]
        )
        ids = ids[_shuffle(len(ids), self._seed + WINDOW_DOMAIN + window, self._epoch)]
        self._laid_out = (window, ids)
        return ids


def _shuffle(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.argsort(sample_seeds(seed, epoch, np.arange(count, dtype=np.int64)), kind="stable")
