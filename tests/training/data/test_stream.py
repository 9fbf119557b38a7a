"""The order contract: one order for any number of ranks, each sample once, exact resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import damage_images, write_shard_set
from training.data.damage import OnDamaged
from training.data.loader import make_loader
from training.data.stream import BatchDataset, StreamConfig
from training.randomness.draws import View, negative_view
from training.views.colours import AugmentConfig, ColourDraws
from training.views.crops import ViewConfig
from training.views.host_batch import HostBatch
from training.views.mask_config import MaskConfig
from training.views.mask_draws import MaskDraws


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=9)
    return root


def dataset(
    root: Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    strategy: str = "balanced",
    seed: int = 3,
    on_damaged: OnDamaged = "raise",
) -> BatchDataset:
    config = StreamConfig(
        seed=seed,
        batch_size=8,
        views=ViewConfig(size=32, grid=4),
        augment=AugmentConfig(),
        masks=MaskConfig(strategy=strategy),  # type: ignore[arg-type]
        window=2,
        on_damaged=on_damaged,
    )
    info = load_dataset_info(root)
    return BatchDataset(root, info, config, rank=rank, world_size=world_size)


def tensors(part: object) -> list[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, dict):
        part = tuple(part.values())
    if part is None:
        return []
    assert isinstance(part, tuple)
    return [tensor for item in part for tensor in tensors(item)]


def assert_same(first: HostBatch, second: HostBatch) -> None:
    for one, other in zip(tensors(first), tensors(second), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_global_batch_is_the_same_for_any_number_of_ranks(
    shards: Path, world_size: int
) -> None:
    alone = dataset(shards)
    ranks = [dataset(shards, rank=r, world_size=world_size) for r in range(world_size)]
    assert {r.steps_per_epoch for r in ranks} == {42 // 8}
    for step in (0, 3, 7, 12):
        together = np.concatenate([r.sample_ids(step) for r in ranks])
        np.testing.assert_array_equal(together, alone.sample_ids(step))


def test_a_sample_appears_at_most_once_an_epoch(shards: Path) -> None:
    data = dataset(shards)
    for epoch in (0, 1):
        steps = range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch)
        ids = np.concatenate([data.sample_ids(step) for step in steps])
        assert len(ids) == len(set(ids)) == data.steps_per_epoch * 8


def test_draws_do_not_depend_on_the_split(shards: Path) -> None:
    whole = dataset(shards)[6]
    second_half = dataset(shards, rank=1, world_size=2)[6]
    assert torch.equal(whole.images_VBCHW[:, 4:], second_half.images_VBCHW)
    assert torch.equal(whole.saliency_VBGG[:, 4:], second_half.saliency_VBGG)
    for view, draws in whole.masks.items():
        assert torch.equal(draws.scores_BCN[4:], second_half.masks[view].scores_BCN)


def test_every_masked_view_and_hard_negative_has_draws_of_its_own(shards: Path) -> None:
    negatives = (negative_view(View.KEY, 0), negative_view(View.QUERY, 0))
    config = replace(dataset(shards).config, masks=MaskConfig(branch="both"), negatives=negatives)
    data = BatchDataset(shards, load_dataset_info(shards), config, rank=0, world_size=1)
    masks = data[0].masks
    assert list(masks) == [View.QUERY, View.KEY, *negatives]
    assert len({float(draws.ratio_B[0]) for draws in masks.values()}) == 4
    for view, draws in masks.items():
        low, high = (0.4, 0.7) if view in negatives else (0.05, 0.25)
        assert low <= float(draws.ratio_B.min()) <= float(draws.ratio_B.max()) <= high
    assert list(dataset(shards)[0].masks) == [View.QUERY, View.NEGATIVE]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
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
        assert_same(batch, last_share(dataset(shards)[step], world_size))


def last_share(batch: HostBatch, world_size: int) -> HostBatch:
    def mine(tensor: torch.Tensor, dim: int = 0) -> torch.Tensor:
        return tensor.chunk(world_size, dim)[-1]

    return HostBatch(
        sample_ids_B=mine(batch.sample_ids_B),
        noise_seeds_B=mine(batch.noise_seeds_B),
        images_VBCHW=mine(batch.images_VBCHW, 1),
        saliency_VBGG=mine(batch.saliency_VBGG, 1),
        mask_saliency_VBGG=mine(batch.mask_saliency_VBGG, 1),
        query_colours=ColourDraws(*map(mine, batch.query_colours)),
        key_colours=ColourDraws(*map(mine, batch.key_colours)),
        masks={view: MaskDraws(*map(mine, draws)) for view, draws in batch.masks.items()},
    )


def test_shuffled_masks_follow_the_next_image_of_the_global_batch(shards: Path) -> None:
    own = dataset(shards)[2]
    assert torch.equal(own.saliency_VBGG, own.mask_saliency_VBGG)
    shuffled = dataset(shards, strategy="shuffled")
    batch = shuffled[2]
    assert torch.equal(batch.saliency_VBGG, own.saliency_VBGG)
    assert not torch.equal(batch.mask_saliency_VBGG, own.saliency_VBGG)
    # The last image goes by the first one's map, the others by the next one's.
    halves = [dataset(shards, strategy="shuffled", rank=r, world_size=2)[2] for r in range(2)]
    together = torch.cat([half.mask_saliency_VBGG for half in halves], dim=1)
    assert torch.equal(together, batch.mask_saliency_VBGG)


def test_views_are_stored_channels_last(shards: Path) -> None:
    images = dataset(shards)[0].images_VBCHW
    assert images[0].is_contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``shards``, with five images of one shard blackened: sample numbers 9 to 13."""
    root = tmp_path_factory.mktemp("damaged")
    write_shard_set(root, num_images=42, shard_images=9)
    damage_images(root, FIRST_DAMAGED // 9, NUM_DAMAGED)
    return root


FIRST_DAMAGED, NUM_DAMAGED = 9, 5


def with_damage(root: Path, step: int) -> bool:
    ids = set(dataset(root).sample_ids(step).tolist())
    return bool(ids & set(range(FIRST_DAMAGED, FIRST_DAMAGED + NUM_DAMAGED)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_damaged_image_names_shard_and_key(damaged: Path, num_workers: int) -> None:
    data = dataset(damaged)
    first = next(step for step in range(5) if with_damage(damaged, step))
    loader = make_loader(data, start_step=0, stop_step=5, num_workers=num_workers, pin_memory=False)
    batches = iter(loader)
    for _ in range(first):
        next(batches)
    with pytest.raises(InputError, match=r"^sample picture-\d+-[0-9a-f]{16} in shard-000001 is"):
        next(batches)


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
        assert torch.equal(batch.images_VBCHW[:, kept], sound.images_VBCHW[:, kept])
        assert torch.equal(batch.saliency_VBGG[:, kept], sound.saliency_VBGG[:, kept])
        for damage in batch.damages:
            assert "in shard-000001 is damaged" in damage.reason
            at = damage.position
            assert not torch.equal(batch.images_VBCHW[:, at], sound.images_VBCHW[:, at])
        for rank in range(2):
            data = dataset(damaged, strategy=strategy, on_damaged="skip", rank=rank, world_size=2)
            half, part = data[step], slice(rank * 4, rank * 4 + 4)
            assert torch.equal(half.images_VBCHW, batch.images_VBCHW[:, part])
            assert torch.equal(half.mask_saliency_VBGG, batch.mask_saliency_VBGG[:, part])
            assert half.weights_B is not None
            assert torch.equal(half.weights_B, batch.weights_B[part])
        skipped += len(batch.damages)
    ids = np.concatenate([dataset(damaged).sample_ids(step) for step in range(5)])
    in_epoch = set(ids.tolist()) & set(range(FIRST_DAMAGED, FIRST_DAMAGED + NUM_DAMAGED))
    assert skipped == len(in_epoch) >= 3
