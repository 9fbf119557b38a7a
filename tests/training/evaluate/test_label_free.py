"""Label-free figures: by hand, and what they leave alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core.errors import DamagedSample
from tests.shard_sets import damage_images, write_images, write_shard_set
from tests.training.evaluate.cases import SIZE, Colours, Normed, extractor_of, left_alone
from training.encoders.encoder import Backbone
from training.evaluate import label_free
from training.evaluate.image_views import centre_views
from training.evaluate.label_free import (
    instance_accuracy,
    label_free_figures,
    object_sensitivity,
)
from training.evaluate.labelled import StoredImages
from training.methods.interface import PlainEmbedder, ProjectedBackbone
from training.methods.simclr.settings import SimCLRConfig


def test_object_sensitivity_by_hand(tmp_path: Path) -> None:
    """A view whose top quarter is a red object before blue, and one without an object."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[..., 2] = 240
    image[:4] = (200, 40, 0)
    saliency = np.zeros((8, 8), np.float32)
    saliency[:2] = 1
    flat = np.full((8, 8), 0.5, np.float32)
    write_images(tmp_path, [image, image], [0, 0], saliency=[saliency, flat])
    images, extractor = StoredImages(tmp_path), extractor_of(Colours(), batch_size=2)
    found = object_sensitivity(extractor, images, np.arange(2), grid=4)

    # The centre 16 x 16 of the picture enlarged to 18 x 18 shows the rows from 0.9 on.
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = centre_views(extractor, images, np.arange(1), grid=4)[0][0]
    whole = x.mean(dim=(1, 2))
    rows = torch.arange(SIZE) < 4
    no_background, no_object = (
        torch.where(kept[None, :, None], x, whole[:, None, None]).mean(dim=(1, 2))
        for kept in (rows, ~rows)
    )
    features = [(colour - mean) / std for colour in (whole, no_background, no_object)]
    cosines = [F.cosine_similarity(features[0], other, dim=0) for other in features[1:]]
    # Sums of 256 pixels in float32, in another order.
    assert found == pytest.approx(float(cosines[0] - cosines[1]), abs=1e-5)
    assert abs(found) > 0.01
    assert np.isnan(object_sensitivity(extractor, images, np.array([1]), grid=4))


def test_instance_accuracy() -> None:
    rows = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    assert instance_accuracy(rows, rows) == 100
    assert instance_accuracy(rows, rows.roll(1, 0)) == 0
    assert instance_accuracy(rows, torch.cat((rows[:3], rows[3:].flip(0)))) == 60


def measure(root: Path, **changes: object) -> dict[str, float]:
    torch.manual_seed(0)
    whole = ProjectedBackbone(Backbone(Normed(), 3), SimCLRConfig(batch_norm_group=4))
    embedder = PlainEmbedder(whole)
    embedder.backbone.network.get_submodule("dropout").eval()
    extractor = extractor_of(embedder.backbone, **changes)
    with left_alone(embedder):
        return label_free_figures(embedder, extractor, StoredImages(root), grid=4)


def test_an_encoder_in_training_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_free, "NUM_PAIRS", 8)
    write_shard_set(tmp_path, num_images=20, labels=False)
    figures = measure(tmp_path)
    assert figures == measure(tmp_path)
    assert figures["checked_images"] == 7  # every third of twenty
    assert 0 <= figures["checked_instance_accuracy"] <= 100
    assert 0 < figures["checked_embedding_spread"] <= 1
    assert abs(figures["object_sensitivity"]) <= 2


def test_damaged_images_are_skipped_where_the_run_skips_them(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=20, labels=False)
    damage_images(tmp_path, 0, 3)
    with pytest.raises(DamagedSample, match=r"sample picture-.* in shard-000000 is dam"):
        measure(tmp_path)
    assert measure(tmp_path, skip_damaged=True)["checked_images"] == 17
