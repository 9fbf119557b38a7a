"""The order contract: one order for any number of ranks, each sample once, exact resume."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.manifest import load_dataset_info
from pipeline.schema import shard_path
from tests.shard_sets import write_shard_set
from training.augment import AugmentConfig
from training.draws import View, negative_view
from training.mask_config import MaskConfig
from training.stream import BatchDataset, HostBatch, StreamConfig, make_loader
from training.views import ViewConfig


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=42, shard_images=9)
    return root


def dataset(
    root: Path, *, rank: int = 0, world_size: int = 1, strategy: str = "balanced", seed: int = 3
) -> BatchDataset:
    config = StreamConfig(
        seed=seed,
        batch_size=8,
        views=ViewConfig(size=32, grid=4),
        augment=AugmentConfig(),
        masks=MaskConfig(strategy=strategy),  # type: ignore[arg-type]
        window=2,
    )
    info = load_dataset_info(root)
    return BatchDataset(root, info, config, rank=rank, world_size=world_size)


def tensors(part: object) -> list[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, dict):
        part = tuple(part.values())
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
        parts = [r.sample_ids(step) for r in ranks]
        for which in (0, 1):  # samples and their partners
            together = np.concatenate([part[which] for part in parts])
            np.testing.assert_array_equal(together, alone.sample_ids(step)[which])


def test_a_sample_appears_at_most_once_an_epoch(shards: Path) -> None:
    data = dataset(shards)
    for epoch in (0, 1):
        steps = range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch)
        ids = np.concatenate([data.sample_ids(step)[0] for step in steps])
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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_workers_change_nothing_and_resume_goes_on_exactly(
    shards: Path, num_workers: int
) -> None:
    data = dataset(shards)
    data[0]  # used before it is sent to the loader's processes
    loader = make_loader(data, start_step=4, stop_step=9, num_workers=num_workers, pin_memory=False)
    batches = list(loader)
    assert len(batches) == 5
    for step, batch in zip(range(4, 9), batches, strict=True):
        assert_same(batch, dataset(shards)[step])


def test_shuffled_masks_follow_the_next_image_of_the_global_batch(shards: Path) -> None:
    own = dataset(shards)[2]
    assert torch.equal(own.saliency_VBGG, own.mask_saliency_VBGG)
    shuffled = dataset(shards, strategy="shuffled")
    batch = shuffled[2]
    assert torch.equal(batch.saliency_VBGG, own.saliency_VBGG)
    assert not torch.equal(batch.mask_saliency_VBGG, own.saliency_VBGG)
    ids, partners = shuffled.sample_ids(2)
    np.testing.assert_array_equal(partners, np.roll(ids, -1))


def test_views_are_stored_channels_last(shards: Path) -> None:
    images = dataset(shards)[0].images_VBCHW
    assert images[0].is_contiguous(memory_format=torch.channels_last)


def test_a_damaged_image_names_shard_and_key(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=9, shard_images=9)
    path = shard_path(tmp_path, "shard-000000")
    data = bytearray(path.read_bytes())
    start = data.find(b"\xff\xd8\xff")  # the first image's JPEG marker
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"picture-\d+-[0-9a-f]{16} in shard-000000"):
        dataset(tmp_path)[0]
