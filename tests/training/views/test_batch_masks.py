"""The masks of a batch are those of its views, one by one."""

from pathlib import Path

import pytest
import torch

from pipeline.saliency.foreground import foreground
from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from training.data.stream import BatchDataset, StreamConfig
from training.randomness.draws import View, negative_view
from training.views.batch_masks import masks_of
from training.views.colours import AugmentConfig
from training.views.crops import ViewConfig
from training.views.mask_config import MaskConfig
from training.views.masks import hard_negative_mask, masked_share, view_mask

SIZE = 32
NEGATIVES = (negative_view(View.KEY, 0), negative_view(View.QUERY, 0))


@pytest.mark.parametrize("high_pass", [False, True])
@pytest.mark.parametrize("strategy", ["balanced", "shuffled"])
def test_masks_go_by_the_foreground(tmp_path: Path, strategy: str, high_pass: bool) -> None:
    write_shard_set(tmp_path, num_images=8, shard_images=8)
    masks = MaskConfig(strategy=strategy, branch="both", foreground="std")  # type: ignore[arg-type]
    config = StreamConfig(
        seed=2,
        batch_size=8,
        views=ViewConfig(size=SIZE, grid=4),
        augment=AugmentConfig(),
        masks=masks,
        negatives=NEGATIVES,
    )
    info = load_dataset_info(tmp_path)
    batch = BatchDataset(tmp_path, info, config, rank=0, world_size=1)[0]
    found = masks_of(batch, masks, high_pass=high_pass, negatives=NEGATIVES)
    true = foreground(batch.saliency_VBGG)
    steering = foreground(batch.mask_saliency_VBGG) if strategy == "shuffled" else true
    assert torch.equal(found.foreground_VBGG, true)
    assert list(found.masks) == [View.QUERY, View.KEY, *NEGATIVES]
    for view in (View.QUERY, View.KEY):
        expected = view_mask(
            steering[view],
            batch.saliency_VBGG[view],
            batch.masks[view],
            strategy=strategy,
            view_size=SIZE,
            high_pass=high_pass,
        )
        assert torch.equal(found.masks[view], expected)
    for number, source in zip(NEGATIVES, (View.KEY, View.QUERY), strict=True):
        expected = hard_negative_mask(
            steering[source], batch.masks[number], view_size=SIZE, high_pass=high_pass
        )
        assert torch.equal(found.masks[number], expected)
    inside, outside = masked_share(found.masks[View.KEY], true[View.KEY])
    assert float(found.telemetry["key_masked_foreground"]) == pytest.approx(float(inside.mean()))
    assert float(found.telemetry["key_masked_background"]) == pytest.approx(float(outside.mean()))
