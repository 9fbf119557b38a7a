"""Images decoded at a reduced scale: as far as crops allow, and near the whole images' views."""

from dataclasses import replace
from io import BytesIO
from operator import itemgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from pipeline.core.errors import ImageError
from pipeline.images.codecs import REDUCED, decode_reduced, decode_stored
from tests.shard_sets import damage_images, write_images, write_shard_set
from tests.training.views.made import dataset_of, settings_of, views_of
from training.config.file import config_from_json, differences
from training.config.pretrain import PretrainConfig
from training.data.stream import BatchDataset
from training.randomness.draws import sample_seeds, view_number
from training.views.crops import draw_crops
from training.views.reduction import reductions
from training.views.settings import ViewConfig
from training.views.spec import Crop, ObjectAware, ViewSpec

SIZES = np.array([(375, 500), (97, 131), (40, 30), (1500, 2000)], dtype=np.int64)
MEAN, MOST = 2.0, 24
"""Levels of 255 by which views of pictures like `scene` may differ from those of whole images. They
differ by 1.6 on average and 12 at most, those of photographs by 1.2 to 1.7 and 56."""


def scene(number: int, height: int, width: int) -> NDArray[np.uint8]:
    """Detail of all sizes, as photographs have it, and the edges of a disc."""
    rng, image = np.random.default_rng(number), np.full((height, width, 3), 128.0)
    for scale in (1.0, 2.0, 4.0, 8.0, 16.0):
        noise = rng.normal(0, 1, (height, width, 3))  # each scale is as strong as the others
        image += 60 * scale * cv2.GaussianBlur(noise, (0, 0), scale)
    x, y = rng.integers(width), rng.integers(height)
    cv2.circle(image, (int(x), int(y)), height // 4, (200.0, 90.0, 40.0), -1)
    return np.asarray(image.clip(0, 255), dtype=np.uint8)


def jpeg(image: NDArray[np.uint8], mode: str = "RGB", **options: Any) -> bytes:  # noqa: ANN401
    file = BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("by", REDUCED)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(96, 160), (101, 75)])
def test_a_reduced_pixel_is_the_mean_of_those_that_it_stands_for(
    by: int, mode: str, size: tuple[int, int]
) -> None:
    """In RGB, and from the upper left corner on: 75 = 9 * 8 + 3."""
    height, width = size
    image = cv2.GaussianBlur(scene(0, height, width), (0, 0), 6.0)
    data = jpeg(np.asarray(image, dtype=np.uint8), mode, exif=turned(1))
    found = decode_reduced(data, by, size)
    assert found is not None
    assert (found.by, found.shape) == (by, (height, width, 3))
    assert found.picture.size == (-(-width // by), -(-height // by))
    rows, columns = height // by, width // by
    blocks = decode_stored(data)[: rows * by, : columns * by].reshape(rows, by, columns, by, 3)
    difference = np.asarray(found.picture)[:rows, :columns] - blocks.mean(axis=(1, 3))
    assert np.abs(difference).mean() < 1
    assert np.abs(difference).max() < 8


def test_what_is_decoded_whole() -> None:
    image = scene(0, 64, 48)
    assert decode_reduced(jpeg(image), 2, (64, 48)) is not None
    assert decode_reduced(jpeg(image), 2, (64, 64)) is None, "not the size of the manifest"
    assert decode_reduced(jpeg(image, exif=turned(6)), 2, (48, 64)) is None
    assert decode_reduced(jpeg(image, exif=turned(3)), 2, (64, 48)) is None
    with pytest.raises(ImageError):
        decode_reduced(b"\xff\xd8\xff\xe0" + bytes(300), 2, (64, 48))


def test_no_crop_has_fewer_pixels_than_its_view_and_no_image_more_than_it_must() -> None:
    """By trying all; of a crop that is drawn again any of its draws might count."""
    cut = ViewConfig(size=48, grid=6, local=2, local_size=16, local_scale=(0.05, 0.3))
    aware = ObjectAware(rule="otsu", threshold=0.0, tries=3, share=None)
    crops = [
        Crop(name="query", cut=cut),
        Crop(name="key", cut=cut, aware=replace(aware, tries=2, share=0.5)),
        Crop(name="local-0", cut=cut.of_local_crops, aware=aware),
    ]
    sizes = np.tile(SIZES, (60, 1))
    seeds = sample_seeds(0, 0, np.arange(len(sizes)))
    found = reductions(seeds, sizes, crops)
    for seed, size, by in zip(seeds, sizes, found, strict=True):
        sides = []
        for crop in crops:
            for attempt in range(crop.aware.tries if crop.aware else 1):
                box = draw_crops(
                    seed[None],
                    *size[:, None],
                    view=view_number(crop.name),
                    config=crop.cut,
                    attempt=attempt,
                )
                sides.append(min(int(box.height_B[0]), int(box.width_B[0])) / crop.cut.size)
        fits = [one for one in (1, 2, 4, 8) if all(side / one >= 1 for side in sides)]
        assert by == max(fits, default=1)
    assert set(found) == {1, 2, 4, 8}


def assert_same(first: object, second: object) -> None:
    for one, other in zip(tree_leaves(first), tree_leaves(second), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def rows(part: Any, of: slice) -> Any:  # noqa: ANN401  (of one kind)
    return tree_map_only(Tensor, itemgetter(of), part)


def both(root: Path, views: tuple[ViewSpec, ...], **stream: Any) -> list[BatchDataset]:  # noqa: ANN401
    return [dataset_of(root, views, decode=decode, **stream) for decode in ("full", "reduced")]


def test_views_of_reduced_images_are_near_those_of_whole_ones(tmp_path: Path) -> None:
    """All else is the same, and so are images that no crop allows to be reduced."""
    images = [
        scene(number, 375, 500) if number % 2 else scene(number, 88, 99) for number in range(16)
    ]
    write_images(tmp_path, images, [0] * 16, ext="jpg")
    whole, reduced = (
        data[0] for data in both(tmp_path, views_of(settings_of(size=64, grid=8)), batch_size=16)
    )
    is_large = torch.from_numpy(whole.sample_ids_B.numpy() % 2 == 1)
    for name, crop in whole.crops.items():
        pixels, others = crop.images_BCHW, reduced.crops[name].images_BCHW
        assert torch.equal(pixels[~is_large], others[~is_large])
        difference = (pixels[is_large].int() - others[is_large].int()).abs()
        assert 0 < difference.float().mean() < MEAN
        assert difference.max() <= MOST
        assert torch.equal(crop.saliency_BGG, reduced.crops[name].saliency_BGG)
        assert_same(crop.colours, reduced.crops[name].colours)
    assert_same(whole.masks, reduced.masks)


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    write_images(tmp_path, [scene(number, 120, 160) for number in range(8)], [0] * 8)
    assert_same(*(data[0] for data in both(tmp_path, views_of(settings_of(size=16, grid=2)))))


@pytest.mark.parametrize("num_damaged", [0, 5])
def test_reduced_images_are_the_same_for_any_number_of_ranks(
    tmp_path: Path, num_damaged: int
) -> None:
    """Also those that stand in for damaged ones, and the one that lends its background."""
    write_shard_set(tmp_path, num_images=42, shard_images=9)
    damage_images(tmp_path, 1, num_damaged)
    views = views_of(settings_of(size=16, grid=2, strategy="exchange"))
    differ = skipped = 0
    for step in range(5):
        full, alone = (data[step] for data in both(tmp_path, views, on_damaged="skip"))
        differ += not torch.equal(*(one.crops["key"].images_BCHW for one in (full, alone)))
        skipped += len(alone.damages)
        assert_same(alone.following["query"], rows(alone.crops["query"], slice(1)))
        for damage in alone.damages:  # cut by other draws than it was reduced for: whole
            part = slice(damage.position, damage.position + 1)
            assert_same(rows(alone.crops, part), rows(full.crops, part))
        for ranks in (2, 4):
            for rank in range(ranks):
                data = both(tmp_path, views, on_damaged="skip", rank=rank, world_size=ranks)[1]
                batch, first = data[step], rank * 8 // ranks
                assert_same(batch.crops, rows(alone.crops, slice(first, first + 8 // ranks)))
                if rank == ranks - 1:
                    assert_same(batch.following, alone.following)
    assert differ == 5
    assert bool(skipped) == bool(num_damaged)


def test_the_scale_of_decoding_may_not_change_on_resume() -> None:
    old = PretrainConfig(shards=Path("s"), out=Path("o"))
    new = replace(old, decode="reduced")
    assert differences(old.to_json(), new.to_json()) == ["decode: full -> reduced"]
    earlier = {name: value for name, value in old.to_json().items() if name != "decode"}
    assert config_from_json(earlier, shards=Path("s"), out=Path("o")) == old
