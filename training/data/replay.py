"""The images of earlier sets in a run's batches: their order, and their places in a batch.

Both are pure functions of (shard sizes, seed, step), the same for any number of ranks.

Shapes: P places.
"""

from collections.abc import Callable, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from training.data.order import SET_BITS, EpochOrder, kept_sizes

REPLAY_DOMAIN = 0x5245504C
"""Keeps this order apart from that of the new images."""


class ReplayOrder:
    """The kept samples of the earlier sets in shuffled passes, one after the other without end.

    Every global batch has the same number of them, in places that are evenly spread: so the ranks
    of a run, and the groups of a batch norm, have equal shares, up to one image.

    Args:
        set_sizes: sizes of the shards of each earlier set. Its number is 1 or more, in this order:
            0 is the set of the new images.
        num_replayed: their images in every global batch.
        batch_size: of the global batch.
        seed: the run's.
        keep: share of every shard that is used (`EpochOrder`).
        window: shards whose samples are mixed.
    """

    def __init__(
        self,
        set_sizes: Sequence[Sequence[int]],
        *,
        num_replayed: int,
        batch_size: int,
        seed: int,
        keep: float,
        window: int,
    ) -> None:
        self._num, self._batch_size = num_replayed, batch_size
        sizes = list(chain.from_iterable(set_sizes))
        firsts = [
            np.cumsum([0, *some[:-1]], dtype=np.int64) + (number << SET_BITS)
            for number, some in enumerate(set_sizes, start=1)
        ]
        self._settings = {"shard_sizes": sizes, "seed": seed + REPLAY_DOMAIN, "window": window}
        self._settings |= {"fraction": keep, "firsts": np.concatenate(firsts)}
        self._shards = [
            (number, shard)
            for number, some in enumerate(set_sizes, start=1)
            for shard in range(len(some))
        ]
        self.num_kept = sum(kept_sizes(sizes, keep))
        self._passes: dict[int, EpochOrder] = {}

    def _pass(self, number: int) -> EpochOrder:
        if number not in self._passes:
            self._passes = {number: EpochOrder(epoch=number, **self._settings)}  # type: ignore[arg-type]
        return self._passes[number]

    def num_before(self, place: int) -> int:
        """The earlier images in front of a place of an epoch; behind an own place it rises."""
        return place * self._num // self._batch_size

    def mixed(
        self,
        places_P: range,
        epoch: int,
        *,
        first_step: int,
        new: Callable[[int, int], NDArray[np.int64]],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The samples at places of an epoch that begins at a global step, [P] each.

        Args:
            places_P: consecutive ones, counted through the epoch's batches.
            epoch: of the new images.
            first_step: the epoch's.
            new: gives ids of new images, from one up to another in the order of the epoch.

        Returns:
            The ids, and the epoch that the draws of each follow from: of an earlier image its pass,
            so that it is seen anew however often it comes in an epoch.
        """
        before = [self.num_before(place) for place in range(places_P.start, places_P.stop + 1)]
        is_old_P = np.diff(before) > 0
        ids_P, epochs_P = np.full((2, len(places_P)), epoch, np.int64)
        ids_P[~is_old_P] = new(places_P.start - before[0], places_P.stop - before[-1])
        begin = first_step * self._num
        ids_P[is_old_P], epochs_P[is_old_P] = self.samples(begin + before[0], begin + before[-1])
        return ids_P, epochs_P

    def samples(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The ids at places `start` up to `stop` of the whole run's, and the pass of each."""
        ids, passes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while start < stop:
            number, place = divmod(start, self.num_kept)
            count = min(stop - start, self.num_kept - place)
            ids.append(self._pass(number).sample_ids(place, place + count))
            passes.append(np.full(count, number, np.int64))
            start += count
        return np.concatenate(ids), np.concatenate(passes)

    def shards_from(self, step: int, windows: int) -> list[tuple[int, int]]:
        """Set and shard, by number, of so many windows from those of a global step on."""
        number, place = divmod(step * self._num, self.num_kept)
        order = self._pass(number)
        return [self._shards[shard] for shard in order.shards_from(order.window_of(place), windows)]
