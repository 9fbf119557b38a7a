"""The masks of a batch are those of its views, one by one."""

from pathlib import Path

import pytest
import torch

from pipeline.saliency.foreground import foreground
from tests.shard_sets import write_shard_set
from tests.training.views.made import dataset_of, settings_of, views_of
from training.views.batch_masks import masks_of
from training.views.masks import hard_negative_mask, masked_share, view_mask

SIZE = 32
NEGATIVES = {"negative-key-0": "key", "negative-query-0": "query"}


@pytest.mark.parametrize("high_pass", [False, True])
@pytest.mark.parametrize("strategy", ["balanced", "shuffled"])
def test_masks_go_by_the_foreground(tmp_path: Path, strategy: str, high_pass: bool) -> None:
    write_shard_set(tmp_path, num_images=8, shard_images=8)
    fill = "high_pass" if high_pass else "mean"
    settings = settings_of(fill, strategy=strategy, branch="both", foreground="std")
    views = views_of(settings, of_query=1)
    batch = dataset_of(tmp_path, views, seed=2)[0]
    found = masks_of(batch, views, settings.masks)
    true = {name: foreground(crop.saliency_BGG) for name, crop in batch.crops.items()}
    steering = dict(true)
    for name, crop in batch.crops.items():
        assert torch.equal(found.foreground[name], true[name])
        assert (crop.next_saliency_BGG is not None) == (strategy == "shuffled")
        if crop.next_saliency_BGG is not None:
            steering[name] = foreground(crop.next_saliency_BGG)
    assert list(found.masks) == ["query", "key", *NEGATIVES]
    for name, crop in batch.crops.items():
        expected = view_mask(
            steering[name],
            crop.saliency_BGG,
            batch.masks[name],
            strategy=strategy,
            view_size=SIZE,
            high_pass=high_pass,
        )
        assert torch.equal(found.masks[name], expected)
    for name, source in NEGATIVES.items():
        expected = hard_negative_mask(
            steering[source], batch.masks[name], view_size=SIZE, high_pass=high_pass
        )
        assert torch.equal(found.masks[name], expected)
    inside, outside = masked_share(found.masks["key"], true["key"])
    assert float(found.telemetry["key_masked_foreground"]) == pytest.approx(float(inside.mean()))
    assert float(found.telemetry["key_masked_background"]) == pytest.approx(float(outside.mean()))
