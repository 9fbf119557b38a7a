"""The order of an epoch: each sample once, any part nameable alone, windows kept together."""

import numpy as np

from training.data.order import EpochOrder

SIZES = (7, 16, 1, 16, 9, 16)


def test_an_epoch_visits_every_sample_once() -> None:
    for window in (1, 2, 16):
        order = EpochOrder(SIZES, seed=0, epoch=0, window=window)
        ids = order.sample_ids(0, sum(SIZES))
        assert sorted(ids) == list(range(sum(SIZES)))


def test_any_part_of_an_epoch_can_be_named_alone() -> None:
    whole = EpochOrder(SIZES, seed=1, epoch=2, window=2).sample_ids(0, sum(SIZES))
    for start in (0, 5, 23, 40):
        part = EpochOrder(SIZES, seed=1, epoch=2, window=2).sample_ids(start, start + 20)
        np.testing.assert_array_equal(part, whole[start : start + 20])


def test_epochs_and_seeds_differ_and_windows_stay_together() -> None:
    first = EpochOrder(SIZES, seed=0, epoch=0, window=1).sample_ids(0, sum(SIZES))
    for other in (EpochOrder(SIZES, seed=0, epoch=1), EpochOrder(SIZES, seed=1, epoch=0)):
        assert (other.sample_ids(0, sum(SIZES)) != first).any()
    shard_of = np.repeat(np.arange(len(SIZES)), SIZES)[first]
    assert (np.diff(shard_of) != 0).sum() == len(SIZES) - 1  # window 1: shard after shard


def test_the_shards_of_windows_are_those_of_their_samples() -> None:
    sizes = [5, 1, 7, 3, 2, 9, 4]
    order = EpochOrder(sizes, seed=3, epoch=1, window=3)
    firsts = np.cumsum([0, *sizes])
    position = 0
    windows: list[list[int]] = []
    while position < sum(sizes):
        shards = order.shards_from(order.window_of(position), 1)
        length = sum(sizes[shard] for shard in shards)
        ids = order.sample_ids(position, position + length)
        assert set(np.searchsorted(firsts, ids, side="right") - 1) == set(shards)
        assert order.window_of(position + length - 1) == len(windows)
        windows.append(shards)
        position += length
    assert order.shards_from(0, 2) == windows[0] + windows[1]
    assert order.shards_from(2, 2) == windows[2]
