"""Crops that show too little foreground are drawn again: as often as stated, and only those."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.shard_sets import write_shard_set
from tests.training.views.made import dataset_of, settings_of, views_of
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.views.crops import CropBatch, Crops, cut_crops, draw_crops
from training.views.inputs import HostBatch
from training.views.settings import ViewConfig
from training.views.spec import ObjectAware, ViewSettings, crops_of

CELLS, GRID, COUNT = 56, 2, 3000
NAMES = "local-0", "local-1"
PLANTED = np.zeros((CELLS, CELLS), dtype=bool)
PLANTED[8:20, 30:42] = True


def patch_shown(box: tuple[int, ...]) -> float:
    """The largest share of foreground in a patch; an image's pixel is a cell of its map."""
    top, left, height, width = (GRID * side for side in box)
    large = np.kron(PLANTED, np.ones((GRID, GRID)))[top : top + height, left : left + width]
    patches = large.reshape(GRID, height // GRID, GRID, width // GRID)
    return float(patches.mean(axis=(1, 3)).max())


def share_shown(box: tuple[int, ...]) -> float:
    """The share of the foreground in a crop."""
    top, left, height, width = box
    return float(PLANTED[top : top + height, left : left + width].sum() / PLANTED.sum())


def drawn(count: int, tries: int, share: float | None = None, **config: Any) -> Crops:  # noqa: ANN401
    """The crops of images that all have the planted map."""
    images, maps = [np.zeros((CELLS, CELLS, 3), dtype=np.uint8)] * count, [PLANTED] * count
    cut, seeds = ViewConfig(size=8, grid=GRID, **config), sample_seeds(0, 0, np.arange(count))
    maps_BPP = np.where(maps, np.uint8(255), np.uint8(0))
    aware = ObjectAware(rule="otsu", threshold=0.0, tries=tries, share=share)
    return cut_crops(images, seeds, names=NAMES, config=cut, maps_BPP=maps_BPP, aware=aware)[1]


def boxes_of(crops: Crops) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in crops[:4]), strict=True))


@pytest.mark.parametrize("tries", [1, 2, 4])
def test_all_draws_miss_with_the_probability_of_so_many_draws(tries: int) -> None:
    """Squares of 20 cells: a draw's probability is counted over all positions."""
    scale, places = 20**2 / CELLS**2, range(CELLS - 20 + 1)
    misses = [patch_shown((top, left, 20, 20)) < 0.5 for top in places for left in places]
    expected = float(np.mean(misses)) ** tries
    crops = drawn(COUNT // 2, tries, crop_scale=(scale, scale), crop_aspect=(1.0, 1.0))
    share = float(np.mean([patch_shown(box) < 0.5 for box in boxes_of(crops)]))
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / COUNT))


@pytest.mark.parametrize(
    ("share", "shown", "enough"),
    [(None, patch_shown, 0.5), (0.4, share_shown, 0.4), (1.0, share_shown, 1.0)],
)
def test_the_first_draw_that_shows_enough_counts_or_the_one_that_shows_the_most(
    share: float | None, shown: Callable[[tuple[int, ...]], float], enough: float
) -> None:
    """Each image and crop has draws of its own, drawn again by hand."""
    count, tries, kept = 60, 4, []
    ranges = {"crop_scale": (0.05, 0.3) if share is None else (0.1, 0.7)}
    found, once = drawn(count, tries, share, **ranges), drawn(count, 1, share, **ranges)
    config, side = ViewConfig(**ranges), np.full(1, CELLS)  # type: ignore[arg-type]
    for row, box in enumerate(boxes_of(found)):
        seed, view = sample_seeds(0, 0, np.array([row % count])), view_number(NAMES[row // count])
        draws = [
            draw_crops(seed, side, side, view=view, config=config, attempt=attempt)
            for attempt in range(tries)
        ]
        shares = [round(shown(boxes_of(one)[0]), 5) for one in draws]
        chosen = next((n for n, one in enumerate(shares) if one >= enough), -1)
        kept.append(chosen)
        chosen = chosen if chosen >= 0 else shares.index(max(shares))
        assert box == boxes_of(draws[chosen])[0], shares
        assert boxes_of(once)[row] == boxes_of(draws[0])[0]
        assert {bool(one.flip_B[0]) for one in draws} == {bool(found.flip_B[row])}
    assert set(kept) == {-1, 0, 1, 2, 3}


def test_where_the_map_tells_no_object_from_a_background_the_first_draw_counts() -> None:
    images, seeds = [np.zeros((40, 30, 3), dtype=np.uint8)] * 50, sample_seeds(0, 0, np.arange(50))
    aware = ObjectAware(rule="otsu", threshold=0.0, tries=10, share=0.9)
    config, flat = ViewConfig(size=8, grid=2), np.zeros((50, CELLS, CELLS), dtype=np.uint8)
    assert aware.mark(flat).all()
    once, again = (
        cut_crops(images, seeds, names=NAMES, config=config, maps_BPP=flat, aware=one)[1]
        for one in (None, aware)
    )
    assert boxes_of(once) == boxes_of(again)


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


def test_object_share_changes_full_crops_and_ranks_change_nothing(tmp_path: Path) -> None:
    """Also those that lend their patches to the image before, which the next rank cuts."""
    write_shard_set(tmp_path, num_images=16, shard_images=16)

    def batch_at(share: float, rank: int = 0, ranks: int = 1) -> HostBatch:
        settings = local_settings(1)
        settings = replace(settings, cut=replace(settings.cut, object_share=share))
        views = (*views_of(settings, exchange=0.5), *settings.local_crops())
        return dataset_of(tmp_path, views, rank=rank, world_size=ranks)[1]

    once, again, halves = batch_at(0), batch_at(0.9), [batch_at(0.9, r, 2) for r in range(2)]
    for name in NAMES:
        assert torch.equal(once.crops[name].images_BCHW, again.crops[name].images_BCHW)
    for name in (QUERY, KEY):
        one, other = once.crops[name], again.crops[name]
        changed = (one.images_BCHW != other.images_BCHW).flatten(1).any(dim=1)
        assert 0 < int(changed.sum()) < len(changed)
        assert all(torch.equal(*pair) for pair in zip(one.colours, other.colours, strict=True))
        parts = [half.crops[name].images_BCHW for half in halves]
        assert torch.equal(torch.cat(parts), other.images_BCHW)
    for rank, half in enumerate(halves):
        following = halves[1 - rank].crops[QUERY].images_BCHW[:1]
        assert torch.equal(half.following[QUERY].images_BCHW, following)
