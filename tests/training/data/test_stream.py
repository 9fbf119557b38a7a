"""The order contract: one order for any number of ranks, each sample once, exact resume."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.shard_sets import damage_images, write_shard_set
from tests.training.views.made import dataset_of, settings_of, views_of
from training.data.loader import make_loader
from training.data.order import EpochOrder, num_used
from training.data.stream import BatchDataset
from training.views.inputs import HostBatch


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=9)
    return root


def dataset(root: Path, *, strategy: str = "balanced", **stream: Any) -> BatchDataset:  # noqa: ANN401
    stream = {"rank": 0, "world_size": 1, "window": 2} | stream
    return dataset_of(root, views_of(settings_of(strategy=strategy)), **stream)


def assert_same(first: object, second: object) -> None:
    """All tensors are the same."""
    for one, other in zip(tree_leaves(first), tree_leaves(second), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def share_of(part: Any, rows: slice | Tensor) -> Any:  # noqa: ANN401  (of one kind)
    """Some rows of all tensors."""
    return tree_map_only(Tensor, itemgetter(rows), part)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(
    shards: Path, fraction: float
) -> None:
    """A sample appears at most once an epoch; of a share, only its own."""
    alone = dataset(shards, data_fraction=fraction)
    size = num_used(alone.reader.info, fraction)
    assert size == (42 if fraction == 1 else 23)  # 5 of each 9, 3 of the last 6
    order = EpochOrder(alone.reader.shard_sizes, seed=1, epoch=9, fraction=fraction)
    own = set(order.sample_ids(0, size).tolist())
    for world_size in (1, 2, 4):
        ranks = [
            dataset(shards, rank=r, world_size=world_size, data_fraction=fraction)
            for r in range(world_size)
        ]
        assert {r.steps_per_epoch for r in ranks} == {size // 8}
        for epoch in (0, 1):
            steps = range(epoch * (size // 8), (epoch + 1) * (size // 8))
            together = [np.concatenate([r.sample_ids(step) for r in ranks]) for step in steps]
            assert np.array_equal(together, [alone.sample_ids(step) for step in steps])
            seen = np.concatenate(together).tolist()
            assert len(seen) == len(set(seen) & own) == size // 8 * 8


def test_every_masked_view_and_hard_negative_has_draws_of_its_own(shards: Path) -> None:
    views = views_of(settings_of(branch="both"), of_query=1)
    masks = dataset(shards).with_views(views)[0].masks
    negatives = ["negative-key-0", "negative-query-0"]
    assert list(masks) == ["query", "key", *negatives]
    assert len({float(draws.ratio_B[0]) for draws in masks.values()}) == 4
    for view, draws in masks.items():
        low, high = (0.4, 0.7) if view in negatives else (0.05, 0.25)
        assert low <= float(draws.ratio_B.min()) <= float(draws.ratio_B.max()) <= high
    assert list(dataset(shards)[0].masks) == ["query", "negative-key-0"]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 3), (2, 0), (4, 1)])
def test_ranks_and_loader_workers_change_nothing_and_a_resumed_run_goes_on_exactly(
    shards: Path, world_size: int, num_workers: int
) -> None:
    """Samples, views, masks and all other draws: the last rank has the whole batch's last ones."""
    data = dataset(shards, rank=world_size - 1, world_size=world_size)
    data[0]  # used before it is sent to the loader's processes
    loader = make_loader(data, start_step=4, stop_step=9, num_workers=num_workers, pin_memory=False)
    batches = list(loader)
    assert len(batches) == 5
    for step, batch in zip(range(4, 9), batches, strict=True):
        last = slice(8 - 8 // world_size, 8)
        assert_same(batch, share_of(dataset(shards)[step], last))


def next_maps(batch: HostBatch) -> dict[str, torch.Tensor]:
    maps = {name: crop.next_saliency_BGG for name, crop in batch.crops.items()}
    return {name: one for name, one in maps.items() if one is not None}


def test_shuffled_masks_follow_the_next_image_of_the_global_batch(shards: Path) -> None:
    own, whole = dataset(shards)[2], dataset(shards, strategy="shuffled")[2]
    # The last image goes by the first one's map, the others by the next one's.
    halves = [dataset(shards, strategy="shuffled", rank=r, world_size=2)[2] for r in range(2)]
    assert next_maps(own) == {}
    assert list(next_maps(whole)) == ["query", "key"]
    for name, maps_BGG in next_maps(whole).items():
        saliency_BGG = own.crops[name].saliency_BGG
        assert torch.equal(whole.crops[name].saliency_BGG, saliency_BGG)
        assert not torch.equal(maps_BGG, saliency_BGG)
        assert torch.equal(torch.cat([next_maps(half)[name] for half in halves]), maps_BGG)


def test_the_last_image_is_lent_the_background_of_the_first(shards: Path) -> None:
    """As it is cut itself, for any number of ranks."""
    views = views_of(settings_of(strategy="exchange"))
    whole, last = (dataset(shards, rank=n - 1, world_size=n).with_views(views)[2] for n in (1, 2))
    assert list(whole.following) == ["query"]
    for batch in (whole, last):
        assert_same(batch.following["query"], share_of(whole.crops["query"], slice(1)))


@pytest.mark.parametrize("with_others", [False, True])
def test_a_crop_is_the_same_whatever_else_is_cut(shards: Path, with_others: bool) -> None:
    """Crops of their own name and size beside the query's; some are cut at once."""
    settings, small = settings_of(), settings_of(size=16, grid=2)
    others = [small.query("small-0"), settings.query("global-2"), small.query("small-1")]
    data = dataset(shards)
    views = (*others[: 3 if with_others else 1], settings.query())
    batch = data.with_views(views)[3]
    images = [crop.images_BCHW for crop in batch.crops.values()]
    assert all(one.is_contiguous(memory_format=torch.channels_last) for one in images)
    assert [len(one) for one in images] == [8] * len(views)
    assert_same(batch.crops["query"], data[3].crops["query"])
    assert batch.crops["small-0"].images_BCHW.shape == (8, 3, 16, 16)
    assert batch.crops["small-0"].saliency_BGG.shape == (8, 2, 2)
    alone = data.with_views((small.query("small-0"),))[3]
    assert_same(batch.crops["small-0"], alone.crops["small-0"])
    assert_same(batch.masks["small-0"], alone.masks["small-0"])


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``shards``, with five images of one shard blackened: sample numbers 9 to 13."""
    root = tmp_path_factory.mktemp("damaged")
    write_shard_set(root, num_images=42, shard_images=9)
    damage_images(root, FIRST_DAMAGED // 9, NUM_DAMAGED)
    return root


FIRST_DAMAGED, NUM_DAMAGED = 9, 5


@pytest.mark.parametrize("strategy", ["balanced", "shuffled"])
def test_a_skipped_sample_changes_nobody_else_and_no_split(
    shards: Path, damaged: Path, strategy: str
) -> None:
    """Another image in its place, weight 0; the rest of the batch as if nothing were wrong."""
    skipped = 0
    for step in range(5):
        sound = dataset(shards, strategy=strategy)[step]
        batch = dataset(damaged, strategy=strategy, on_damaged="skip")[step]
        assert torch.equal(batch.sample_ids_B, sound.sample_ids_B)
        assert batch.weights_B is not None
        kept = batch.weights_B == 1
        assert [d.position for d in batch.damages] == (~kept).nonzero().flatten().tolist()
        for name, crop in batch.crops.items():
            theirs = sound.crops[name]
            assert torch.equal(crop.images_BCHW[kept], theirs.images_BCHW[kept])
            assert torch.equal(crop.saliency_BGG[kept], theirs.saliency_BGG[kept])
            changed = (crop.images_BCHW != theirs.images_BCHW).flatten(1).any(dim=1)
            assert torch.equal(changed, ~kept)
        # Of a damaged image the map is sound, and still steers the mask of the image before it.
        assert_same(next_maps(share_of(batch, kept)), next_maps(share_of(sound, kept)))
        assert all("shard-000001.tar is damaged" in damage.reason for damage in batch.damages)
        for rank in range(2):
            data = dataset(damaged, strategy=strategy, on_damaged="skip", rank=rank, world_size=2)
            half, part = data[step], slice(rank * 4, rank * 4 + 4)
            assert_same(half.crops, share_of(batch.crops, part))
            assert half.weights_B is not None
            assert torch.equal(half.weights_B, batch.weights_B[part])
        skipped += len(batch.damages)
    ids = np.concatenate([dataset(damaged).sample_ids(step) for step in range(5)])
    in_epoch = set(ids.tolist()) & set(range(FIRST_DAMAGED, FIRST_DAMAGED + NUM_DAMAGED))
    assert skipped == len(in_epoch) >= 3
