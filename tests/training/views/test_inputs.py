"""What the encoders see: which views are masked, what the hard negatives are cut from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.saliency.foreground import foreground
from tests.shard_sets import write_shard_set
from tests.training.views.made import built, dataset_of, settings_of, views_of
from training.randomness.draws import view_number
from training.randomness.noise import gaussian_noise
from training.views.fills import FILLS
from training.views.host_batch import HostBatch
from training.views.inputs import EncoderInputs, carrying_masks, to_device
from training.views.masks import masked_share
from training.views.released import released_foreground
from training.views.settings import AttMaskConfig

BATCH, SIZE, GRID = 8, 32, 4
FIRST, SECOND, OF_QUERY = NEGATIVES = "negative-key-0", "negative-key-1", "negative-query-0"
SOURCES = {FIRST: "key", SECOND: "key", OF_QUERY: "query"}


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


def changed(one: Tensor, other: Tensor) -> Tensor:
    return (one != other).any(dim=1, keepdim=True)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("strategy", ["balanced", "shuffled", "attmask_hint"])
def test_a_batch_worked_on_in_parts_is_the_same_batch(
    shards: Path, monkeypatch: pytest.MonkeyPatch, fill: str, strategy: str
) -> None:
    whole = inputs_of(shards, fill, strategy=strategy, branch="both")
    monkeypatch.setattr("training.views.inputs.CACHED_BYTES", 3 * 4 * 3 * SIZE * SIZE)  # 3, 3 and 2
    parts = inputs_of(shards, fill, strategy=strategy, branch="both")
    assert list(whole.views) == list(parts.views) == ["query", "key", *NEGATIVES]
    for one, other in zip(whole[:4], parts[:4], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # rounding, if anything


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("branch", ["query", "key", "both"])
def test_the_branch_is_masked_and_the_other_is_not(shards: Path, fill: str, branch: str) -> None:
    bare = inputs_of(shards, fill, strategy="none", branch=branch)
    inputs = inputs_of(shards, fill, branch=branch, query_ratio=(0.3, 0.5))
    for name in ("query", "key"):
        after, before = inputs.views[name], bare.views[name]
        if branch in (name, "both"):
            assert bool(changed(after, before).flatten(1).any(dim=1).all())
            assert not bool(changed(after, before)[~inputs.masks[name].any(1, True)].any())
            assert float(inputs.telemetry[f"{name}_masked_foreground"]) > 0
        else:
            assert torch.equal(after, before)
            assert f"{name}_masked_foreground" not in inputs.telemetry


@pytest.mark.parametrize("fill", FILLS)
def test_hard_negatives_are_cut_from_the_unmasked_views(shards: Path, fill: str) -> None:
    bare = inputs_of(shards, fill, strategy="none")
    inputs = inputs_of(shards, fill, branch="both")
    for name, source in SOURCES.items():
        image, unmasked = inputs.views[name], bare.views[source]
        outside = ~inputs.masks[name].expand_as(image)
        assert torch.equal(image[outside], unmasked[outside])
        assert bool(changed(image, unmasked).flatten(1).any(dim=1).all())
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
    crops = batch_of(shards).crops
    true = {name: foreground(crop.saliency_BGG) for name, crop in crops.items()}
    assert float(inputs.telemetry["foreground_share"]) == pytest.approx(
        float(true["query"].double().mean())
    )
    shares = [masked_share(inputs.masks[name], true[source]) for name, source in SOURCES.items()]
    for name, which in (("foreground", 0), ("background", 1)):
        expected = sum(float(share[which].mean()) for share in shares) / 3
        assert float(inputs.telemetry[f"negative_masked_{name}"]) == pytest.approx(expected)
    assert float(inputs.telemetry["negative_masked_background"]) == 0


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
def test_released_encodes_the_first_negative_only(shards: Path, fill: str) -> None:
    paper, released = (inputs_of(shards, fill, behaviour=b) for b in ("paper", "released"))
    for name in paper.views:
        assert len(paper.views[name]) == BATCH
        assert len(released.views[name]) == (1 if name in NEGATIVES else BATCH)
    for name, crop in batch_of(shards).crops.items():
        assert torch.equal(released.foreground[name], released_foreground(crop.saliency_BGG))
        assert torch.equal(paper.foreground[name], foreground(crop.saliency_BGG))
    # Measured against the true foreground, released masks hit background too.
    assert float(released.telemetry["negative_masked_background"]) > 0


def test_released_negatives_are_those_of_each_rank_s_first_image(shards: Path) -> None:
    for rank in (0, 1):
        inputs = inputs_of(shards, "mean", behaviour="released", rank=rank, world_size=2)
        mask = inputs.masks[FIRST][:1].expand(1, 3, SIZE, SIZE)
        assert torch.equal(inputs.views[FIRST][~mask], inputs.views["key"][:1][~mask])


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
def test_views_carry_their_masks(shards: Path, fill: str, channels: int) -> None:
    """Views that are not masked, or have another image's pixels, carry an empty mask."""

    def carry(view: Tensor, mask: Tensor) -> Tensor:
        return torch.cat((view, mask.to(view.dtype)), dim=1)

    settings = settings_of(fill)
    views = views_of(settings, of_key=2, of_query=1, exchange=1.0)
    inputs = built(dataset_of(shards, views)[0], views, settings)
    carried = carrying_masks(inputs, views, carry)
    assert list(carried.views) == ["query", "key", *NEGATIVES, "exchanged"]
    for name, after in carried.views.items():
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
