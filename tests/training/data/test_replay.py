"""Earlier images in every batch: exact counts on any ranks, nested members, new draws per pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from tests.training.views.made import settings_of, views_of
from training.data.order import ROWS, SET_BITS, EpochOrder
from training.data.replay import ReplayOrder
from training.data.stream import BatchDataset
from training.data.stream_config import StreamConfig
from training.randomness.draws import sample_seeds
from training.views.settings import AugmentConfig

OLD_SIZES = ((9, 9, 3), (5,))
BATCH = 8


def order_of(keep: float, num: int = 3, sizes: Any = OLD_SIZES) -> ReplayOrder:  # noqa: ANN401
    return ReplayOrder(sizes, num_replayed=num, batch_size=BATCH, seed=1, keep=keep, window=2)


def test_a_pass_takes_every_kept_sample_once_and_a_smaller_share_lies_within_a_larger_one() -> None:
    smaller: set[int] = set()
    for keep, count in ((0.1, 4), (0.5, 5 + 5 + 2 + 3), (1.0, 26)):
        order = order_of(keep)
        assert order.num_kept == count
        ids, passes = order.samples(0, 3 * count)
        rounds = [ids[passes == number].tolist() for number in range(3)]
        assert {len(one) for one in rounds} == {count}
        assert len({tuple(one) for one in rounds}) == 3
        members = set(rounds[0])
        assert members == set(rounds[1]) == set(rounds[2])
        assert len(members) == count
        assert smaller <= members
        smaller = members
        part, numbers = order.samples(count - 2, count + 5)
        assert np.array_equal(part, ids[count - 2 : count + 5])
        assert numbers.tolist()[:5] == [0, 0, 1, 1, 1]
    assert smaller == {s << SET_BITS | row for s, n in ((1, 21), (2, 5)) for row in range(n)}


def test_the_members_of_a_set_are_those_of_smallest_hash_whichever_sets_stand_before_it() -> None:
    alone = EpochOrder(OLD_SIZES[0], seed=0, epoch=0, fraction=0.3)
    wanted = set(alone.sample_ids(0, 3 + 3 + 1).tolist())
    for sizes, number in ((OLD_SIZES, 1), (OLD_SIZES[::-1], 2), (OLD_SIZES[:1], 1)):
        order = order_of(0.3, sizes=sizes)
        ids, _ = order.samples(0, order.num_kept)
        assert {int(one) & ROWS for one in ids if one >> SET_BITS == number} == wanted
    own = order_of(1.0, sizes=OLD_SIZES[:1]).samples(0, 21)[0] & ROWS
    new = EpochOrder(OLD_SIZES[0], seed=1, epoch=0, window=2).sample_ids(0, 21)
    assert not np.array_equal(own, new), "an order of its own"


def test_the_shards_that_are_fetched_ahead_are_those_of_the_next_images() -> None:
    order = order_of(1.0)
    for step in range(30):
        (sample,) = order.samples(3 * step, 3 * step + 1)[0].tolist()
        number, row = sample >> SET_BITS, sample & ROWS
        shard = int(np.searchsorted(np.cumsum(OLD_SIZES[number - 1]), row, side="right"))
        assert (number, shard) in order.shards_from(step, 1)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("sets")
    for number, count in enumerate((42, 21, 5)):
        first = 1000 * number
        write_shard_set(root / str(number), num_images=count, shard_images=9, first_number=first)
    return [root / str(number) for number in range(3)]


def dataset(sets: list[Path], **stream: Any) -> BatchDataset:  # noqa: ANN401
    place = {"rank": stream.pop("rank", 0), "world_size": stream.pop("world_size", 1)}
    views = views_of(settings_of(strategy="shuffled"), exchange=0.5)
    given = {"seed": 3, "batch_size": BATCH, "window": 2, "num_replayed": 3, "keep": 0.5}
    config = StreamConfig(views=views, augment=AugmentConfig(), **(given | stream))
    infos = [load_dataset_info(root) for root in sets]
    replayed = list(zip(sets[1:], infos[1:], strict=True))
    return BatchDataset(sets[0], infos[0], config, **place, replayed=replayed)


@pytest.mark.parametrize("num", [1, 3, 7])
def test_every_batch_has_the_exact_count_on_one_two_and_four_ranks(
    sets: list[Path], num: int
) -> None:
    alone = dataset(sets, num_replayed=num)
    assert alone.steps_per_epoch == 42 // (BATCH - num)
    steps = range(2 * alone.steps_per_epoch)
    batches = np.stack([alone.sample_ids(step) for step in steps])
    assert ((batches >> SET_BITS > 0).sum(axis=1) == num).all()
    for epoch in np.split(batches, 2):  # each new image at most once, of all there are
        new = epoch[epoch <= ROWS].tolist()
        assert len(new) == len(set(new)) == alone.steps_per_epoch * (BATCH - num)
    for ranks in (2, 4):
        parts = [dataset(sets, num_replayed=num, rank=r, world_size=ranks) for r in range(ranks)]
        for step in steps:
            own = [part.sample_ids(step) for part in parts]
            assert np.array_equal(np.concatenate(own), batches[step])
            counts = [int((ids >> SET_BITS > 0).sum()) for ids in own]
            assert max(counts) - min(counts) <= 1
    whole = alone.sample_ids(0, range(alone.steps_per_epoch * BATCH))  # as reports ask for it
    assert np.array_equal(whole, np.split(batches, 2)[0].ravel())


def test_images_masks_and_draws_are_those_of_the_sample_and_its_pass(sets: list[Path]) -> None:
    data, infos = dataset(sets), [load_dataset_info(root) for root in sets]
    readers = [BatchDataset(r, i, data.config, rank=0, world_size=1, replayed=[(r, i)])
               for r, i in zip(sets, infos, strict=True)]  # fmt: skip
    seen: dict[int, set[int]] = {}
    for step in range(data.steps_per_epoch * 2):
        batch = data[step]
        for place, (sample, seed) in enumerate(
            zip(batch.sample_ids_B.tolist(), batch.noise_seeds_B.tolist(), strict=True)
        ):
            number, row = sample >> SET_BITS, sample & ROWS
            image, saliency = data.read_pixels(sample)
            wanted = readers[number].reader.read_pixels(row)
            assert np.array_equal(image, wanted[0])
            assert np.array_equal(saliency, wanted[1])
            if number:
                assert seed not in seen.setdefault(sample, set()), "the same views twice"
                turn = len(seen[sample])
                seeds = sample_seeds(3, turn, np.array([sample]))
                assert seed == int(seeds.view(np.int64)[0])
                seen[sample].add(seed)
            else:
                epoch = step // data.steps_per_epoch
                assert seed == int(sample_seeds(3, epoch, np.array([row])).view(np.int64)[0])
            assert place in data.positions
    assert max(map(len, seen.values())) >= 3
    halves = [dataset(sets, rank=r, world_size=2)[4] for r in range(2)]
    whole = data[4]
    for name, crops in whole.crops.items():
        both = torch.cat([half.crops[name].images_BCHW for half in halves])
        assert torch.equal(both, crops.images_BCHW)
    for name, lent in whole.following.items():  # the last image borrows the first one's background
        assert torch.equal(lent.images_BCHW, halves[1].following[name].images_BCHW)


def test_without_replay_the_batches_are_those_of_the_set_alone(sets: list[Path]) -> None:
    plain, other = dataset(sets[:1], num_replayed=0), dataset(sets, num_replayed=0)
    for step in range(6):
        assert torch.equal(plain[step].noise_seeds_B, other[step].noise_seeds_B)
        assert np.array_equal(plain.sample_ids(step), other.sample_ids(step))
