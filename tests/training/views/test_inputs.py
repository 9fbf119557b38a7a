"""What the encoders see: which views are masked, what the hard negatives are cut from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.saliency.foreground import foreground
from tests.shard_sets import write_shard_set
from tests.training.views.made import built, dataset_of, settings_of, views_of
from training.encoders.stem import join_masks
from training.randomness.draws import view_number
from training.randomness.noise import gaussian_noise
from training.views.fills import FILLS
from training.views.inputs import EncoderInputs, HostBatch, to_device
from training.views.maskers import MaskerInputs
from training.views.patches import masked_share
from training.views.released import sorted_rows
from training.views.settings import AttMaskConfig

BATCH, SIZE, GRID = 8, 32, 4
FIRST, SECOND, OF_QUERY = NEGATIVES = "negative-key-0", "negative-key-1", "negative-query-0"
SOURCES = {FIRST: "key", SECOND: "key", OF_QUERY: "query"}
CROPS = {"query": "query", "key": "key", **SOURCES}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=16, shard_images=16)
    return root


def batch_of(shards: Path) -> HostBatch:
    return dataset_of(shards, views_of(settings_of(), of_key=2, of_query=1))[0]


def inputs_of(
    shards: Path,
    fill: str,
    *,
    rank: int = 0,
    world_size: int = 1,
    **masks: Any,  # noqa: ANN401
) -> EncoderInputs:
    settings = settings_of(fill, **{"foreground": "std", **masks})
    views = views_of(settings, of_key=2, of_query=1)
    batch = dataset_of(shards, views, rank=rank, world_size=world_size)[0]
    return built(batch, views, settings)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("strategy", ["balanced", "shuffled", "attmask_hint"])
def test_masks_go_by_the_foreground_and_chunks_change_nothing(
    shards: Path, monkeypatch: pytest.MonkeyPatch, fill: str, strategy: str
) -> None:
    settings = settings_of(fill, strategy=strategy, branch="both", foreground="std")
    views = views_of(settings, of_key=2, of_query=1)
    batch = dataset_of(shards, views)[0]
    whole = built(batch, views, settings)
    assert list(whole.views) == list(whole.masks) == list(CROPS)
    for view in views:
        crop = batch.crops[CROPS[view.name]]
        true = foreground(crop.saliency_BGG)
        assert torch.equal(whole.foreground[view.crop.name], true)
        assert (crop.next_saliency_BGG is not None) == (strategy == "shuffled")
        other = crop.next_saliency_BGG
        steering = true if other is None else foreground(other)
        assert view.masker is not None
        expected = view.masker.mask(
            batch.masks[view.name], MaskerInputs(steering, crop.saliency_BGG, SIZE, None)
        )
        assert torch.equal(whole.masks[view.name], expected)
    monkeypatch.setattr("training.views.inputs.CACHED_BYTES", 3 * 4 * 3 * SIZE * SIZE)  # 3, 3 and 2
    for one, other_part in zip(whole[:4], built(batch, views, settings)[:4], strict=True):
        torch.testing.assert_close(one, other_part, rtol=0, atol=1e-6)  # rounding, if anything


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("branch", ["query", "key", "both"])
def test_views_differ_from_the_unmasked_crop_in_masked_pixels_only(
    shards: Path, fill: str, branch: str
) -> None:
    """Hard negatives too; of query and key, those of the branch are masked."""
    bare = inputs_of(shards, fill, strategy="none", branch=branch)
    inputs = inputs_of(shards, fill, branch=branch, query_ratio=(0.3, 0.5))
    for name, source in CROPS.items():
        before, after = bare.views[source], inputs.views[name]
        if name in NEGATIVES or branch in (name, "both"):
            outside = ~inputs.masks[name].expand_as(after)
            assert torch.equal(after[outside], before[outside])
            assert bool((after != before).flatten(1).any(dim=1).all())
        else:
            assert torch.equal(after, before)
            assert f"{name}_masked_foreground" not in inputs.telemetry
    assert not torch.equal(inputs.masks[FIRST], inputs.masks[SECOND])


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_fill_is_that_of_the_view_it_stands_in(shards: Path, fill: str) -> None:
    inputs = inputs_of(shards, fill, branch="both", query_ratio=(1.0, 1.0))
    for name in (FIRST, OF_QUERY):
        negative, image = inputs.views[name], inputs.views[SOURCES[name]]
        assert bool(inputs.masks[SOURCES[name]].all())
        where = inputs.masks[name].expand_as(negative)
        assert torch.equal(negative[where], image[where])


def test_the_noise_of_every_view_is_its_own(shards: Path) -> None:
    inputs, batch = inputs_of(shards, "high_pass", branch="both"), batch_of(shards)
    for name, image in inputs.views.items():
        std, number = (0.14 if name in NEGATIVES else 0.18), view_number(name)
        noise = gaussian_noise(batch.noise_seeds_B, number, (3, SIZE, SIZE), std=std)
        assert torch.equal(image[inputs.masks[name]], noise[inputs.masks[name]])


def test_telemetry_is_the_mean_over_images_and_masks(shards: Path) -> None:
    inputs = inputs_of(shards, "mean", branch="both")
    true = {name: foreground(c.saliency_BGG) for name, c in batch_of(shards).crops.items()}
    expected = {
        "foreground_share": float(true["query"].double().mean()),
        "all_foreground": float(true["query"].flatten(1).all(dim=1).double().mean()),
    }
    for group, names in (("query", ["query"]), ("key", ["key"]), ("negative", NEGATIVES)):
        shares = [masked_share(inputs.masks[name], true[CROPS[name]]) for name in names]
        for number, stratum in enumerate(("foreground", "background")):
            mean = torch.stack([share[number] for share in shares]).mean()
            expected[f"{group}_masked_{stratum}"] = float(mean)
    assert {name: float(v) for name, v in inputs.telemetry.items()} == pytest.approx(expected)
    assert expected["negative_masked_background"] == 0


def test_attmask_masks_some_views_by_their_saliency(shards: Path) -> None:
    settings = AttMaskConfig(ratio=(0.25, 0.25))
    inputs = inputs_of(shards, "mean", strategy="attmask_high", attmask=settings, probability=0.5)
    masked = inputs.masks["query"][:, 0, :: SIZE // GRID, :: SIZE // GRID].flatten(1)
    saliency = batch_of(shards).crops["query"].saliency_BGG.flatten(1)
    counts = masked.sum(dim=1).tolist()
    assert set(counts) == {0, 4}
    for image in range(BATCH):
        if counts[image]:
            assert saliency[image][masked[image]].min() >= saliency[image][~masked[image]].max()


@pytest.mark.parametrize("fill", FILLS)
def test_released_encodes_the_first_negative_of_each_rank_only(shards: Path, fill: str) -> None:
    for rank in (0, 1):
        inputs = inputs_of(shards, fill, behaviour="released", rank=rank, world_size=2)
        paper = inputs_of(shards, fill, rank=rank, world_size=2)
        for name, image in inputs.views.items():
            assert len(paper.views[name]) == BATCH // 2
            assert len(image) == (1 if name in NEGATIVES else BATCH // 2)
        mask = inputs.masks[FIRST][:1].expand(1, 3, SIZE, SIZE)
        assert torch.equal(inputs.views[FIRST][~mask], inputs.views["key"][:1][~mask])
        for name, crop in batch_of(shards).crops.items():
            own = crop.saliency_BGG[4 * rank : 4 * rank + 4]
            assert torch.equal(inputs.foreground[name], foreground(sorted_rows(own), rule="std"))
        # Measured against the true foreground, released masks hit background too.
        assert float(inputs.telemetry["negative_masked_background"]) > 0


def test_released_high_pass_shares_its_noise(shards: Path) -> None:
    inputs = inputs_of(
        shards, "high_pass", behaviour="released", strategy="random", query_ratio=(1.0, 1.0)
    )
    draws = batch_of(shards).masks["query"]
    tiles = [
        inputs.views["query"][image][:, top : top + 8, left : left + 8]
        for image in range(BATCH)
        for top in (0, 8)
        for left in (0, 24)
        if float(draws.shape_B[image]) >= 0.2
        and bool(inputs.masks["query"][image, :, top : top + 8, left : left + 8].all())
    ]
    different = torch.unique(torch.stack(tiles), dim=0)
    assert 1 <= len(different) <= 2 < len(tiles)


@pytest.mark.parametrize(("fill", "channels"), [("mean", 1), ("high_pass", 3)])
def test_views_are_joined_with_their_masks(shards: Path, fill: str, channels: int) -> None:
    """With an empty one, if they are not masked or have another image's pixels."""

    def join(view: Tensor, mask: Tensor) -> Tensor:
        return torch.cat((view, mask.to(view.dtype)), dim=1)

    settings = settings_of(fill)
    views = views_of(settings, of_key=2, of_query=1, exchange=1.0)
    inputs = built(dataset_of(shards, views)[0], views, settings)
    joined = join_masks(inputs, views, join)
    assert list(joined.views) == ["query", "key", *NEGATIVES, "exchanged"]
    for name, after in joined.views.items():
        assert after.shape == (BATCH, 3 + channels, SIZE, SIZE)
        assert torch.equal(after[:, :3], inputs.views[name])
        if name in ("key", "exchanged"):
            assert not bool(after[:, 3:].any())
        else:
            assert torch.equal(after[:, 3:].bool(), inputs.masks[name])


def test_a_batch_moves_as_a_whole(shards: Path) -> None:
    moved = to_device(batch_of(shards), torch.device("meta"))
    for crop in moved.crops.values():
        assert crop.images_BCHW.device.type == "meta"
        assert crop.colours.kernel_BK.device.type == "meta"
    assert list(moved.masks) == ["query", *NEGATIVES]
    assert all(part.device.type == "meta" for draws in moved.masks.values() for part in draws)
