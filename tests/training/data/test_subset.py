"""A share of a set: the same for ever, one within the other, as much of every shard."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.shard_sets import write_shard_set
from training.config.derived import stream_config
from training.config.recipes import debug
from training.data.stream import BatchDataset
from training.data.subset import Subset, kept_sizes, num_used

SIZES = [30, 7, 1, 64]


def all_ids(fraction: float) -> list[int]:
    subset = Subset(SIZES, fraction)
    return [int(number) for number in subset.sample_ids(np.arange(sum(subset.sizes)))]


def test_the_whole_set_is_numbered_as_before() -> None:
    assert all_ids(1.0) == list(range(sum(SIZES)))


def test_every_shard_gives_its_share_rounded_up() -> None:
    assert kept_sizes(SIZES, 0.1) == [3, 1, 1, 7]
    assert kept_sizes(SIZES, 0.5) == [15, 4, 1, 32]
    firsts = np.cumsum([0, *SIZES])
    counts = np.histogram(all_ids(0.5), bins=firsts)[0]
    assert counts.tolist() == [15, 4, 1, 32]


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 0.5, 0.99, 1.0])
def test_ids_rise_and_do_not_repeat(fraction: float) -> None:
    ids = all_ids(fraction)
    assert ids == sorted(set(ids))
    assert 0 <= ids[0] <= ids[-1] < sum(SIZES)


def test_a_smaller_share_lies_within_a_larger_one() -> None:
    shares = [set(all_ids(fraction)) for fraction in (0.05, 0.1, 0.3, 0.7, 1.0)]
    assert all(small < large for small, large in pairwise(shares))


def test_any_piece_in_any_order_names_the_same_samples() -> None:
    ids = np.array(all_ids(0.3))
    some = np.random.default_rng(0).permutation(len(ids))[:11]
    assert Subset(SIZES, 0.3).sample_ids(some).tolist() == ids[some].tolist()


def test_an_epoch_of_a_share_is_all_of_it_and_nothing_else(tmp_path: Path) -> None:
    info = write_shard_set(tmp_path, num_images=40, shard_images=16)
    assert num_used(info, 0.5) == 8 + 8 + 4
    config = debug(tmp_path, tmp_path / "out")
    stream = stream_config(debug(tmp_path, tmp_path))
    for ranks in (1, 2):
        seen: list[int] = []
        for rank in range(ranks):
            dataset = BatchDataset(
                tmp_path,
                info,
                type(stream)(**{**vars(stream), "batch_size": 10, "data_fraction": 0.5}),
                rank=rank,
                world_size=ranks,
            )
            assert dataset.steps_per_epoch == 2
            seen += [int(i) for step in range(2) for i in dataset.sample_ids(step)]
        wanted = Subset([16, 16, 8], 0.5).sample_ids(np.arange(20)).tolist()
        assert sorted(seen) == wanted
    assert config.data_fraction == 1.0


def test_a_subset_travels_to_other_processes() -> None:
    subset = Subset(SIZES, 0.5)
    numbers = np.arange(sum(subset.sizes))
    subset.sample_ids(numbers)  # remembers what it must not take along
    again: Subset = pickle.loads(pickle.dumps(subset))
    assert again.sample_ids(numbers).tolist() == subset.sample_ids(numbers).tolist()
