"""The order of an epoch, and subsets: each sample once, any part nameable alone, nested shares."""

import numpy as np
import pytest

from training.data.order import EpochOrder, kept_sizes

SIZES = (7, 16, 1, 16, 9, 16)


@pytest.mark.parametrize("window", [1, 2, 16])
def test_an_epoch_visits_every_sample_once_and_any_part_can_be_named_alone(window: int) -> None:
    whole = EpochOrder(SIZES, seed=1, epoch=2, window=window).sample_ids(0, sum(SIZES))
    assert sorted(whole) == list(range(sum(SIZES)))
    for start in (0, 5, 23, 40):
        part = EpochOrder(SIZES, seed=1, epoch=2, window=window).sample_ids(start, start + 20)
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


SHARDS = [30, 7, 1, 64]


def used_ids(fraction: float) -> list[int]:
    order = EpochOrder(SHARDS, seed=0, epoch=0, window=2, fraction=fraction)
    return sorted(order.sample_ids(0, sum(kept_sizes(SHARDS, fraction))).tolist())


def test_every_shard_gives_its_share_rounded_up_and_a_smaller_share_lies_within_a_larger_one() -> (
    None
):
    assert kept_sizes(SHARDS, 0.1) == [3, 1, 1, 7]
    smaller: set[int] = set()
    for fraction in (0.01, 0.1, 0.25, 0.5, 0.99, 1.0):
        ids = used_ids(fraction)
        assert len(ids) == len(set(ids))
        counts = np.histogram(ids, bins=np.cumsum([0, *SHARDS]))[0]
        assert counts.tolist() == kept_sizes(SHARDS, fraction)
        assert (len(ids) == sum(SHARDS)) == (fraction > 0.98)
        assert smaller <= set(ids)
        smaller = set(ids)
