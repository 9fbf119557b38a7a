"""Local crops without foreground are drawn again: as often as stated, and nothing else changes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.shard_sets import write_shard_set
from tests.training.views.made import dataset_of, settings_of
from training.randomness.draws import sample_seeds, view_number
from training.views.crops import CropBatch, Crops, cut_crops, draw_crops
from training.views.settings import ViewConfig
from training.views.spec import ViewSettings, crops_of

CELLS, GRID, COUNT = 56, 2, 3000
NAMES = "local-0", "local-1"
PLANTED = np.zeros((CELLS, CELLS), dtype=bool)
PLANTED[8:20, 30:42] = True


def shows(box: tuple[int, ...]) -> bool:
    """Whether half of a patch or more is foreground; an image's pixel is a cell of its map."""
    top, left, height, width = (GRID * side for side in box)
    large = np.kron(PLANTED, np.ones((GRID, GRID)))[top : top + height, left : left + width]
    patches = large.reshape(GRID, height // GRID, GRID, width // GRID)
    return bool(patches.mean(axis=(1, 3)).max() >= 0.5)


def drawn(count: int, **config: Any) -> Crops:  # noqa: ANN401
    """The crops of images that all have the planted map."""
    images, marked = [np.zeros((CELLS, CELLS, 3), dtype=np.uint8)] * count, [PLANTED] * count
    cut, seeds = ViewConfig(size=8, grid=GRID, **config), sample_seeds(0, 0, np.arange(count))
    return cut_crops(images, seeds, names=NAMES, config=cut, marked_BPP=np.stack(marked))[1]


def boxes_of(crops: Crops) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in crops[:4]), strict=True))


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_all_draws_miss_with_the_probability_of_so_many_draws(tries: int) -> None:
    """Squares of 20 cells: a draw's probability is counted over all positions."""
    scale, places = 20**2 / CELLS**2, range(CELLS - 20 + 1)
    misses = [not shows((top, left, 20, 20)) for top in places for left in places]
    expected = float(np.mean(misses)) ** tries
    crops = drawn(COUNT // 2, crop_scale=(scale, scale), crop_aspect=(1.0, 1.0), local_tries=tries)
    share = float(np.mean([not shows(box) for box in boxes_of(crops)]))
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / COUNT))


def test_each_crop_is_the_first_draw_that_shows_foreground_or_the_last() -> None:
    """Each image and crop has draws of its own, drawn again by hand."""
    count, ranges, kept = 60, {"crop_scale": (0.05, 0.3)}, []
    found, fewer = (drawn(count, local_tries=tries, **ranges) for tries in (4, 2))
    config, side = ViewConfig(**ranges), np.full(1, CELLS)  # type: ignore[arg-type]
    for row, (box, of_two) in enumerate(zip(boxes_of(found), boxes_of(fewer), strict=True)):
        seed, view = sample_seeds(0, 0, np.array([row % count])), view_number(NAMES[row // count])
        for attempt in range(4):
            one = draw_crops(seed, side, side, view=view, config=config, attempt=attempt)
            if shows(boxes_of(one)[0]):
                break
        assert box == boxes_of(one)[0]
        assert box == of_two or attempt > 1
        assert found.flip_B[row] == one.flip_B[0]
        kept.append(attempt)
    assert set(kept) == {0, 1, 2, 3}


def local_settings(tries: int, **masks: Any) -> ViewSettings:  # noqa: ANN401
    settings = settings_of(**masks)
    return replace(settings, cut=replace(settings.cut, local=2, local_size=16, local_tries=tries))


def test_the_rule_is_the_run_s_and_one_try_is_off() -> None:
    """A few bright cells on a slope: the two rules differ."""
    ramp = np.tile(np.linspace(0, 100, CELLS), (CELLS, 1)).astype(np.uint8)
    ramp[:4, :4] = 255
    std = {"foreground": "std", "foreground_threshold": 2.5}
    for masks, expected in (({"foreground": "otsu"}, ramp > 50), (std, ramp == 255)):
        _, crop = crops_of(local_settings(3, **masks).local_crops())
        assert crop.aware is not None
        assert (crop.aware.mark(ramp[None])[0] == expected).mean() > 0.99
    assert [crop.aware for crop in crops_of(local_settings(1).local_crops())] == [None, None]


def test_only_local_crops_change_and_ranks_change_nothing(tmp_path: Path) -> None:
    write_shard_set(tmp_path, num_images=16, shard_images=16)

    def crops_at(
        tries: int, rank: int = 0, ranks: int = 1, strategy: str = "balanced"
    ) -> dict[str, CropBatch]:
        settings = local_settings(tries, strategy=strategy)
        views = (settings.query(), *settings.local_crops())
        return dataset_of(tmp_path, views, rank=rank, world_size=ranks)[1].crops

    once, again, halves = crops_at(1), crops_at(4), [crops_at(4, r, 2) for r in range(2)]
    steered = crops_at(4, strategy="shuffled")  # masks go by the next image's map
    assert torch.equal(once["query"].images_BCHW, again["query"].images_BCHW)
    for name in NAMES:
        one, other = once[name], again[name]
        changed = (one.images_BCHW != other.images_BCHW).flatten(1).any(dim=1)
        assert 0 < int(changed.sum()) < len(changed)
        assert float(other.saliency_BGG.mean()) > float(one.saliency_BGG.mean())
        assert all(torch.equal(*pair) for pair in zip(one.colours, other.colours, strict=True))
        assert torch.equal(steered[name].images_BCHW, other.images_BCHW), "by its own map"
        parts = [half[name].images_BCHW for half in halves]
        assert torch.equal(torch.cat(parts), other.images_BCHW)
