"""Some images of a batch carry all that was drawn for them."""

from pathlib import Path

import torch

from pipeline.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from training.augment import AugmentConfig
from training.batch_rows import rows_of
from training.data.stream import BatchDataset, StreamConfig
from training.data.views import ViewConfig
from training.masking.config import MaskConfig


def test_rows_are_those_of_a_rank(tmp_path: Path) -> None:
    """The second half of a batch is what the second of two ranks would load."""
    write_shard_set(tmp_path, num_images=16, shard_images=16)
    config = StreamConfig(
        seed=1,
        batch_size=8,
        views=ViewConfig(size=32, grid=4),
        augment=AugmentConfig(),
        masks=MaskConfig(strategy="shuffled", branch="both"),
    )
    info = load_dataset_info(tmp_path)
    whole = BatchDataset(tmp_path, info, config, rank=0, world_size=1)[0]
    expected = BatchDataset(tmp_path, info, config, rank=1, world_size=2)[0]
    part = rows_of(whole, 4, 8)
    for name in ("sample_ids_B", "noise_seeds_B", "images_VBCHW", "saliency_VBGG"):
        assert torch.equal(getattr(part, name), getattr(expected, name)), name
    assert torch.equal(part.mask_saliency_VBGG, expected.mask_saliency_VBGG)
    for name in ("query_colours", "key_colours"):
        for one, other in zip(getattr(part, name), getattr(expected, name), strict=True):
            assert torch.equal(one, other)
    assert part.masks.keys() == expected.masks.keys()
    for view, draws in part.masks.items():
        for one, other in zip(draws, expected.masks[view], strict=True):
            assert torch.equal(one, other)
