"""Matched negatives: exact pixels, the rule where none can be made, and any number of ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.shard_sets import write_shard_set
from tests.training.views.made import built, dataset_of, settings_of, views_of
from training.randomness.draws import Stream, sample_seeds, uniforms, view_number
from training.views.exchange import SwapInputs
from training.views.inputs import EncoderInputs
from training.views.maskers import MaskerInputs
from training.views.matched import ObjectMasker, ObjectSwap

SIZE, GRID, SIDE, BATCH = 32, 4, 8, 8


def swapped(views: Tensor, donors: Tensor, own: Tensor, other: Tensor, uniform: Tensor) -> Tensor:
    """The matched negatives of given views and foregrounds."""
    inputs = MaskerInputs(own, torch.zeros(own.shape), views.shape[-1], other)
    mask = ObjectMasker().mask((), inputs)
    return ObjectSwap("query").filled(SwapInputs(views, donors, own, other, mask, uniform))


def test_a_planted_pair_gives_exact_pixels() -> None:
    """2 x 2 patches of 2 px; this image's object is patches 0 and 3, the next one's patch 3."""
    view, donor = torch.arange(48.0).reshape(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)
    own, other = torch.tensor([[[1, 0], [0, 1]]]).bool(), torch.tensor([[[0, 0], [0, 1]]]).bool()
    found = swapped(view, donor, own, other, torch.tensor([[0.99, 0.0, 0.0, 0.0]]))
    expected = view.clone()
    expected[..., :2, :2] = view[..., 2:, :2]  # the last background patch, as drawn
    expected[..., 2:, 2:] = -1
    assert torch.equal(found, expected)


@pytest.mark.parametrize("own", [0, 1, 4])
@pytest.mark.parametrize("other", [0, 1, 4])
def test_what_cannot_be_matched_is_the_next_view_as_it_is(own: int, other: int) -> None:
    """By the numbers of foreground patches of four."""
    first, second = ((torch.arange(4) < number).reshape(1, 2, 2) for number in (own, other))
    views, donors = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    share = float(swapped(views, donors, first, second, torch.zeros(1, 4)).mean())
    assert share == (0.25 if own < 4 and other == 1 else 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=16, shard_images=16)
    return root


def inputs_of(
    shards: Path,
    fill: str = "mean",
    *,
    crops: tuple[str, ...] = ("query", "key"),
    rank: int = 0,
    ranks: int = 1,
    **masks: Any,  # noqa: ANN401
) -> EncoderInputs:
    """What encoders see, with matched negatives on the backgrounds of some crops."""
    settings = settings_of(fill, **{"strategy": "none", **masks})
    views = (*views_of(settings), *map(settings.matched_negative, crops))
    return built(dataset_of(shards, views, rank=rank, world_size=ranks)[0], views, settings)


def per_patch(image_CHW: Tensor) -> Tensor:
    cut = image_CHW.unfold(1, SIDE, SIDE).unfold(2, SIDE, SIDE)
    return cut.permute(1, 2, 0, 3, 4).flatten(0, 1)


@pytest.mark.parametrize("fill", ["mean", "high_pass"])
@pytest.mark.parametrize("crop", ["query", "key"])
def test_each_patch_is_the_next_object_s_or_of_the_own_background(
    shards: Path, crop: str, fill: str
) -> None:
    """Patch by patch, with the numbers drawn again by hand."""
    inputs = inputs_of(shards, fill, crops=(crop,))
    seeds = sample_seeds(3, 0, dataset_of(shards, views_of(settings_of())).sample_ids(0))
    drawn = uniforms(seeds, view_number(crop), Stream.MATCHED_PATCH, GRID * GRID)
    bare, foreground = inputs.views[crop], inputs.foreground[crop].flatten(1)
    for image, other in enumerate([*range(1, BATCH), 0]):
        before, lent = per_patch(bare[image]), per_patch(bare[other])
        background = (~foreground[image]).nonzero().flatten().tolist()
        after = per_patch(inputs.views[f"matched-{crop}-0"][image])
        for place in range(GRID * GRID):
            free = background[int(drawn[image, place] * len(background))]
            expected = before[free if foreground[image, place] else place]
            expected = lent[place] if foreground[other, place] else expected
            assert torch.equal(after[place], expected)
    share = float(foreground.float().mean())
    assert 0 < share < 1
    assert float(inputs.telemetry["matched_share"]) == pytest.approx(share)
    assert float(inputs.telemetry["matched_whole"]) == 0
    alone = inputs_of(shards, fill, crops=())
    assert inputs.telemetry.keys() - alone.telemetry.keys() == {"matched_share", "matched_whole"}
    for name, image_BCHW in alone.views.items():
        assert torch.equal(inputs.views[name], image_BCHW)


def test_views_that_cannot_be_matched_are_counted(shards: Path) -> None:
    """Under the paper's rule with a very low threshold every patch is foreground."""
    inputs = inputs_of(shards, foreground="std", foreground_threshold=-100.0)
    assert torch.equal(inputs.views["matched-key-0"], inputs.views["key"].roll(-1, dims=0))
    assert float(inputs.telemetry["matched_whole"]) == 1


def test_ranks_and_chunks_change_nothing(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor with exchanged queries beside them."""
    whole = inputs_of(shards, strategy="exchange").views
    for ranks in (2, 8):
        parts = [inputs_of(shards, strategy="exchange", rank=r, ranks=ranks) for r in range(ranks)]
        for name in ("matched-query-0", "matched-key-0"):
            assert torch.equal(torch.cat([part.views[name] for part in parts]), whole[name])
    monkeypatch.setattr("training.views.inputs.CACHED_BYTES", 3 * 4 * 3 * SIZE * SIZE)  # 3, 3 and 2
    chunks = inputs_of(shards, strategy="exchange").views
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-6)  # rounding, if anything
