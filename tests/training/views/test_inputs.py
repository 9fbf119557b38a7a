"""What the encoders see: which views are masked, what the hard negatives are cut from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.saliency.foreground import foreground
from pipeline.shardset.manifest import load_dataset_info
from tests.shard_sets import write_shard_set
from training.data.stream import BatchDataset, StreamConfig
from training.randomness.draws import View, negative_view
from training.views.colours import AugmentConfig
from training.views.crops import ViewConfig
from training.views.fills import FILLS
from training.views.host_batch import HostBatch
from training.views.inputs import EncoderInputs, build_inputs, carrying_masks, to_device
from training.views.mask_config import AttMaskConfig, MaskConfig
from training.views.masks import masked_share
from training.views.released import released_foreground

BATCH, SIZE, GRID = 8, 32, 4
NEGATIVES = (
    negative_view(View.KEY, 0),
    negative_view(View.KEY, 1),
    negative_view(View.QUERY, 0),
)
FIRST, SECOND, OF_QUERY = NEGATIVES


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=16, shard_images=16)
    return root


def batch_of(shards: Path, masks: MaskConfig, *, ranks: int = 1, rank: int = 0) -> HostBatch:
    config = StreamConfig(
        seed=3,
        batch_size=BATCH,
        views=ViewConfig(size=SIZE, grid=GRID),
        augment=AugmentConfig(),
        masks=masks,
        negatives=NEGATIVES,
    )
    data = BatchDataset(shards, load_dataset_info(shards), config, rank=rank, world_size=ranks)
    return data[0]


def inputs_of(
    shards: Path, fill: str, *, negatives: tuple[int, ...] = NEGATIVES, **masks: object
) -> EncoderInputs:
    config = MaskConfig(**{"foreground": "std", **masks})  # type: ignore[arg-type]
    return build_inputs(
        batch_of(shards, config), masks=config, fill=FILLS[fill], negatives=negatives
    )


def tensors_of(inputs: EncoderInputs) -> list[Tensor]:
    cut = [image for images in inputs.negatives.values() for image in images]
    return [
        inputs.query_BCHW,
        inputs.key_BCHW,
        *cut,
        inputs.foreground_VBGG,
        *inputs.masks.values(),
        *inputs.telemetry.values(),
    ]


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
    assert whole.telemetry.keys() == parts.telemetry.keys()
    assert list(whole.masks) == list(parts.masks)
    for one, other in zip(tensors_of(whole), tensors_of(parts), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # rounding, if anything


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("branch", ["query", "key", "both"])
def test_the_branch_is_masked_and_the_other_is_not(shards: Path, fill: str, branch: str) -> None:
    bare = inputs_of(shards, fill, strategy="none", branch=branch)
    inputs = inputs_of(shards, fill, branch=branch, query_ratio=(0.3, 0.5))
    for view, name in ((View.QUERY, "query"), (View.KEY, "key")):
        after, before = (
            one.query_BCHW if view == View.QUERY else one.key_BCHW for one in (inputs, bare)
        )
        if branch in (name, "both"):
            assert bool(changed(after, before).flatten(1).any(dim=1).all())
            assert not bool(changed(after, before)[~inputs.masks[view].any(1, True)].any())
            assert float(inputs.telemetry[f"{name}_masked_foreground"]) > 0
        else:
            assert torch.equal(after, before)
            assert f"{name}_masked_foreground" not in inputs.telemetry


@pytest.mark.parametrize("fill", FILLS)
def test_hard_negatives_are_cut_from_the_unmasked_views(shards: Path, fill: str) -> None:
    bare = inputs_of(shards, fill, strategy="none")
    inputs = inputs_of(shards, fill, branch="both")
    assert [len(inputs.negatives[view]) for view in (View.KEY, View.QUERY)] == [2, 1]
    for number, image, source in (
        (FIRST, inputs.negatives[View.KEY][0], bare.key_BCHW),
        (SECOND, inputs.negatives[View.KEY][1], bare.key_BCHW),
        (OF_QUERY, inputs.negatives[View.QUERY][0], bare.query_BCHW),
    ):
        outside = ~inputs.masks[number].expand_as(image)
        assert torch.equal(image[outside], source[outside])
        assert bool(changed(image, source).flatten(1).any(dim=1).all())
    assert not torch.equal(inputs.masks[FIRST], inputs.masks[SECOND])


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_fill_is_that_of_the_view_it_stands_in(shards: Path, fill: str) -> None:
    inputs = inputs_of(shards, fill, branch="both", query_ratio=(1.0, 1.0))
    for source, image in ((View.KEY, inputs.key_BCHW), (View.QUERY, inputs.query_BCHW)):
        assert bool(inputs.masks[source].all())
        negative = inputs.negatives[source][0]
        where = inputs.masks[negative_view(source, 0)].expand_as(negative)
        assert torch.equal(negative[where], image[where])


def test_the_noise_of_every_view_is_its_own(shards: Path) -> None:
    inputs = inputs_of(shards, "high_pass", branch="both", query_ratio=(0.9, 1.0))
    both = inputs.masks[FIRST] & inputs.masks[SECOND]
    one, other = inputs.negatives[View.KEY]
    assert bool(both.any())
    assert not bool((one == other)[both].any())


def test_telemetry_is_the_mean_over_images_and_masks(shards: Path) -> None:
    config = MaskConfig(branch="both")
    batch = batch_of(shards, config)
    inputs = inputs_of(shards, "mean", branch="both")
    true = foreground(batch.saliency_VBGG)
    assert float(inputs.telemetry["foreground_share"]) == pytest.approx(
        float(true[View.QUERY].double().mean())
    )
    shares = [
        masked_share(inputs.masks[number], true[source])
        for number, source in ((FIRST, View.KEY), (SECOND, View.KEY), (OF_QUERY, View.QUERY))
    ]
    for name, which in (("foreground", 0), ("background", 1)):
        expected = sum(float(share[which].mean()) for share in shares) / 3
        assert float(inputs.telemetry[f"negative_masked_{name}"]) == pytest.approx(expected)
    assert float(inputs.telemetry["negative_masked_background"]) == 0


def test_attmask_masks_some_views_by_their_saliency(shards: Path) -> None:
    settings = AttMaskConfig(ratio=(0.25, 0.25))
    inputs = inputs_of(shards, "mean", strategy="attmask_high", attmask=settings, probability=0.5)
    masked = inputs.masks[View.QUERY][:, 0, :: SIZE // GRID, :: SIZE // GRID].flatten(1)
    saliency = batch_of(shards, MaskConfig()).saliency_VBGG[View.QUERY].flatten(1)
    counts = masked.sum(dim=1).tolist()
    assert set(counts) == {0, 4}
    for image in range(BATCH):
        if counts[image]:
            assert saliency[image][masked[image]].min() >= saliency[image][~masked[image]].max()


@pytest.mark.parametrize("fill", FILLS)
def test_released_encodes_the_first_negative_only(shards: Path, fill: str) -> None:
    paper, released = (inputs_of(shards, fill, behaviour=b) for b in ("paper", "released"))
    for view in (View.KEY, View.QUERY):
        assert all(len(image) == BATCH for image in paper.negatives[view])
        assert all(len(image) == 1 for image in released.negatives[view])
    batch = batch_of(shards, MaskConfig())
    assert torch.equal(released.foreground_VBGG, released_foreground(batch.saliency_VBGG))
    assert torch.equal(paper.foreground_VBGG, foreground(batch.saliency_VBGG))
    # Measured against the true foreground, released masks hit background too.
    assert float(released.telemetry["negative_masked_background"]) > 0


def test_released_negatives_are_those_of_each_rank_s_first_image(shards: Path) -> None:
    config = MaskConfig(behaviour="released")
    for rank in (0, 1):
        batch = batch_of(shards, config, ranks=2, rank=rank)
        inputs = build_inputs(batch, masks=config, fill=FILLS["mean"], negatives=(FIRST,))
        mask = inputs.masks[FIRST][:1].expand(1, 3, SIZE, SIZE)
        (negative,) = inputs.negatives[View.KEY]
        assert torch.equal(negative[~mask], inputs.key_BCHW[:1][~mask])


def test_released_high_pass_shares_its_noise(shards: Path) -> None:
    inputs = inputs_of(
        shards, "high_pass", behaviour="released", strategy="random", query_ratio=(1.0, 1.0)
    )
    draws = batch_of(shards, MaskConfig()).masks[View.QUERY]
    tiles = [
        inputs.query_BCHW[image][:, top : top + 8, left : left + 8]
        for image in range(BATCH)
        for top in (0, 8)
        for left in (0, 24)
        if float(draws.shape_B[image]) >= 0.2
        and bool(inputs.masks[View.QUERY][image, :, top : top + 8, left : left + 8].all())
    ]
    different = torch.unique(torch.stack(tiles), dim=0)
    assert 1 <= len(different) <= 2 < len(tiles)


def test_views_carry_their_masks(shards: Path) -> None:
    for fill, channels in (("mean", 1), ("high_pass", 3)):
        inputs = inputs_of(shards, fill)

        def carry(view: Tensor, mask: Tensor) -> Tensor:
            return torch.cat((view, mask.to(view.dtype)), dim=1)

        carried = carrying_masks(inputs, carry)
        for before, after, number in (
            (inputs.query_BCHW, carried.query_BCHW, View.QUERY),
            (inputs.key_BCHW, carried.key_BCHW, View.KEY),
            (inputs.negatives[View.KEY][1], carried.negatives[View.KEY][1], SECOND),
            (inputs.negatives[View.QUERY][0], carried.negatives[View.QUERY][0], OF_QUERY),
        ):
            assert after.shape == (BATCH, 3 + channels, SIZE, SIZE)
            assert torch.equal(after[:, :3], before)
            if number == View.KEY:
                assert not bool(after[:, 3:].any())
            else:
                assert torch.equal(after[:, 3:].bool(), inputs.masks[number])


def test_a_batch_moves_as_a_whole(shards: Path) -> None:
    moved = to_device(batch_of(shards, MaskConfig()), torch.device("meta"))
    assert moved.images_VBCHW.device.type == "meta"
    assert moved.query_colours.kernel_BK.device.type == "meta"
    assert all(part.device.type == "meta" for draws in moved.masks.values() for part in draws)
