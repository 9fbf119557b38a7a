"""Crops fall as torchvision's do, and saliency is pooled over exactly what a patch shows."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop, functional

from tests.training.views.made import KEY_VIEW, QUERY_VIEW
from training.randomness.draws import sample_seeds
from training.views.crops import Crops, cut_views, draw_crops, pool_saliency
from training.views.settings import ViewConfig


def crops_of(count: int, height: int, width: int, *, view: int = QUERY_VIEW) -> Crops:
    seeds = sample_seeds(0, 0, np.arange(count, dtype=np.int64))
    sides = np.full(count, height), np.full(count, width)
    return draw_crops(seeds, *sides, view=view, config=ViewConfig())


@pytest.mark.parametrize(("height", "width"), [(375, 500), (160, 160), (30, 400)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count = 4000
    crops = crops_of(count, height, width)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    )
    for ours, reference in zip(crops[:4], theirs.T, strict=True):
        quantiles = np.linspace(0.05, 0.95, 10)
        # 4,000 draws: the standard error of a quantile is below 1.5 % of the range.
        tolerance = 0.05 * max(np.ptp(reference), 1)
        np.testing.assert_allclose(
            np.quantile(ours, quantiles), np.quantile(reference, quantiles), atol=tolerance
        )


def test_boxes_stay_inside_and_views_differ() -> None:
    for height, width in ((1, 1), (1, 400), (7, 3), (375, 500)):
        top_B, left_B, tall_B, wide_B, *_ = crops_of(500, height, width)
        assert min(top_B.min(), left_B.min()) >= 0
        assert (top_B + tall_B).max() <= height
        assert (left_B + wide_B).max() <= width
        assert min(tall_B.min(), wide_B.min()) >= 1
    query, key = crops_of(500, 375, 500), crops_of(500, 375, 500, view=KEY_VIEW)
    assert (query.top_B != key.top_B).mean() > 0.9
    assert 0.4 < query.flip_B.mean() < 0.6


def test_saliency_is_pooled_over_what_the_patch_shows() -> None:
    """The same as cutting, resizing by area and flipping the map blown up to the image's size."""
    rng = np.random.default_rng(0)
    cells, scale, grid = 8, 6, 4
    maps = rng.integers(0, 256, size=(20, cells, cells), dtype=np.uint8)
    side = cells * scale
    tops, lefts = rng.integers(0, 12, size=(2, 20))
    lengths = rng.integers(1, 9, size=(2, 20)) * grid
    sides = np.full(20, side)
    crops = Crops(tops, lefts, lengths[0], lengths[1], rng.random(20) < 0.5, sides, sides)
    pooled = pool_saliency(maps, crops, grid)
    assert pooled.dtype == np.float32
    for i in range(20):
        large = np.kron(maps[i], np.ones((scale, scale))) / 255
        box = large[tops[i] : tops[i] + lengths[0][i], lefts[i] : lefts[i] + lengths[1][i]]
        patch = (lengths[0][i] // grid, lengths[1][i] // grid)
        slow = box.reshape(grid, patch[0], grid, patch[1]).mean(axis=(1, 3))
        slow = slow[:, ::-1] if crops.flip_B[i] else slow
        np.testing.assert_allclose(pooled[i], slow, atol=1e-5)


def test_image_and_saliency_share_one_geometry() -> None:
    """A picture that is its own saliency map gives views whose patches equal the pooled map."""
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 256, size=(16, 56, 56), dtype=np.uint8)
    large = [np.kron(m, np.ones((4, 4), np.uint8))[:, :, None].repeat(3, axis=2) for m in maps]
    crops = crops_of(16, 224, 224)
    views = np.empty((16, 64, 64, 3), dtype=np.uint8)
    cut_views(large, crops, views)
    pooled = pool_saliency(maps, crops, 8)
    patches = views[..., 0].reshape(16, 8, 8, 8, 8).mean(axis=(2, 4)) / 255
    # Where a crop is enlarged, interpolation reaches over a patch's border.
    assert np.abs(patches - pooled).mean() < 0.02


@pytest.mark.parametrize(("height", "width"), [(375, 500), (160, 160), (40, 30), (1, 3)])
def test_views_are_those_of_torchvision(height: int, width: int) -> None:
    """Crops that shrink, grow and do both; Pillow filters in whole levels too, hence the one."""
    rng = np.random.default_rng(2)
    images = [rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8) for _ in range(12)]
    crops = crops_of(12, height, width)
    views = np.empty((12, 64, 64, 3), dtype=np.uint8)
    cut_views(images, crops, views)
    for i, image in enumerate(images):
        top, left, tall, wide = (int(part[i]) for part in crops[:4])
        picture = functional.resized_crop(
            Image.fromarray(image), top, left, tall, wide, [64, 64], antialias=True
        )
        picture = functional.hflip(picture) if crops.flip_B[i] else picture
        difference = np.abs(np.asarray(picture).astype(int) - views[i])
        assert difference.max() <= 1
        assert difference.mean() < 0.3  # Pillow rounds between its two passes
