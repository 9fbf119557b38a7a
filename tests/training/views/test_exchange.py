"""Backgrounds of queries exchanged: exact pixels, donors, and any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.shard_sets import write_shard_set
from tests.training.views.made import built, dataset_of, settings_of, views_of
from training.randomness.draws import Stream, sample_seeds, uniforms, view_number
from training.views.exchange import donor_patches, exchanged_views
from training.views.inputs import EncoderInputs
from training.views.maskers import MaskerInputs

SIZE, GRID, BATCH = 32, 4, 8


def test_a_planted_pair_gives_exact_pixels() -> None:
    """Two views of 2 x 2 patches of 2 px; the first's object is patch 0, the donor's is patch 3."""
    views, donors = torch.zeros(1, 3, 4, 4), torch.arange(48.0).reshape(1, 3, 4, 4)
    donor_foreground = torch.tensor([[[False, False], [False, True]]])
    patches = donor_patches(donor_foreground, torch.tensor([[0.0, 0.0, 0.0, 0.99]]))
    assert patches.tolist() == [[0, 1, 2, 2]]  # the object's place gets the last background patch
    mask = torch.tensor([[False, True], [True, True]]).repeat_interleave(2, 0)
    mask = mask.repeat_interleave(2, 1)[None, None]
    found = exchanged_views(views, donors, patches, mask)
    expected = torch.zeros(1, 3, 4, 4)
    expected[..., :2, 2:] = donors[..., :2, 2:]
    expected[..., 2:, :2] = donors[..., 2:, :2]
    expected[..., 2:, 2:] = donors[..., 2:, :2]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("seed", range(3))
def test_no_patch_of_the_donor_s_object_comes_along(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    foreground = torch.rand(50, 8, 8, generator=generator) < 0.5
    patches = donor_patches(foreground, torch.rand(50, 64, generator=generator))
    assert not bool(foreground.flatten(1).gather(1, patches).any())
    own = torch.arange(64).expand(50, -1)
    background = ~foreground.flatten(1)
    assert torch.equal(patches[background], own[background])
    # Uniform over the background: as many different patches as so many draws give.
    in_object = patches[0][foreground[0].flatten()]
    assert len(in_object.unique()) > 0.4 * len(in_object)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_images=16, shard_images=16)
    return root


def inputs_of(
    shards: Path,
    *,
    share: float | None = None,
    fill: str = "mean",
    rank: int = 0,
    ranks: int = 1,
    **masks: Any,  # noqa: ANN401
) -> EncoderInputs:
    """What encoders see, with a further copy of such a share of the queries exchanged."""
    settings = settings_of(fill, **{"strategy": "none", **masks})
    views = views_of(settings, exchange=share)
    return built(dataset_of(shards, views, rank=rank, world_size=ranks)[0], views, settings)


def per_patch(image_CHW: Tensor) -> Tensor:
    side = SIZE // GRID
    return (
        image_CHW.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).flatten(0, 1)
    )


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_a_query_s_background_is_the_next_query_s(shards: Path, fill: str) -> None:
    bare = inputs_of(shards, fill=fill).views["query"]
    inputs = inputs_of(shards, strategy="exchange", probability=1.0, fill=fill)
    foreground = inputs.foreground["query"].flatten(1)
    for image in range(BATCH):
        before, after = per_patch(bare[image]), per_patch(inputs.views["query"][image])
        donor = (image + 1) % BATCH
        source = per_patch(bare[donor])[~foreground[donor]]
        assert torch.equal(after[foreground[image]], before[foreground[image]])
        for patch in after[~foreground[image]]:
            assert bool((source == patch).flatten(1).all(dim=1).any())
    shown = inputs_of(shards, share=1.0, fill=fill)
    assert torch.equal(shown.views["query"], bare)
    assert torch.equal(shown.views["exchanged"], inputs.views["query"])
    share = float((~foreground).float().mean())
    assert float(shown.telemetry["exchanged_share"]) == pytest.approx(share)
    assert float(inputs.telemetry["query_masked_background"]) == pytest.approx(1.0)
    assert float(inputs.telemetry["query_masked_foreground"]) == 0


def test_grey_is_the_view_s_mean(shards: Path) -> None:
    bare = inputs_of(shards).views["query"]
    grey = inputs_of(shards, strategy="exchange", exchange="grey", probability=1.0)
    foreground = grey.foreground["query"].flatten(1)
    mean = bare.mean(dim=(2, 3))
    for image in range(BATCH):
        for patch in per_patch(grey.views["query"][image])[~foreground[image]]:
            torch.testing.assert_close(patch, mean[image, :, None, None].expand_as(patch))


def test_views_without_background_stay_as_they_are(shards: Path) -> None:
    """Under the paper's rule with a very low threshold every patch is foreground."""
    bare = inputs_of(shards).views["query"]
    everything: dict[str, Any] = {
        "strategy": "exchange",
        "probability": 1.0,
        "foreground": "std",
        "foreground_threshold": -100.0,
    }
    inputs = inputs_of(shards, share=1.0, **everything)
    assert torch.equal(inputs.views["query"], bare)
    assert torch.equal(inputs.views["exchanged"], bare)
    assert float(inputs.telemetry["all_foreground"]) == 1


@pytest.mark.parametrize(("exchange", "masked"), [("swap", False), ("grey", True)])
def test_only_a_swap_needs_a_background_to_lend(exchange: str, masked: bool) -> None:
    """The next image is all object: a swap leaves the view alone, grey masks it all the same."""
    settings = settings_of(strategy="exchange", exchange=exchange, probability=1.0)
    masker, seeds = settings.query().masker, sample_seeds(0, 0, np.arange(2))
    assert masker is not None
    background, everything = torch.zeros(2, GRID, GRID).bool(), torch.ones(2, GRID, GRID).bool()
    inputs = MaskerInputs(background, torch.zeros(2, GRID, GRID), SIZE, everything)
    mask = masker.mask(masker.draw(seeds, view="query", cut=settings.cut), inputs)
    assert mask.unique().tolist() == [masked]


def test_a_share_of_the_views_is_exchanged(shards: Path) -> None:
    """Drawn by the name of the crop."""
    seeds, settings = sample_seeds(0, 0, np.arange(2000)), settings_of()
    masker = settings.exchanged(0.4).masker
    assert masker is not None
    background = torch.zeros(2000, GRID, GRID).bool()
    inputs = MaskerInputs(background, torch.zeros(2000, GRID, GRID), SIZE, background)
    mask = masker.mask(masker.draw(seeds, view="exchanged", cut=settings.cut), inputs)
    share = uniforms(seeds, view_number("query"), Stream.EXCHANGE_APPLY, 1)[:, 0] < 0.4
    assert mask.flatten(1).all(dim=1).tolist() == mask.flatten(1).any(dim=1).tolist()
    assert mask.flatten(1).any(dim=1).tolist() == share.tolist()
    never = inputs_of(shards, share=0.0).views
    assert torch.equal(never["exchanged"], never["query"])


@pytest.mark.parametrize("strategy", ["none", "balanced", "exchange"])
def test_ranks_and_chunks_change_nothing(
    shards: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    whole = inputs_of(shards, share=0.7, strategy=strategy).views
    assert bool((whole["exchanged"] != whole["query"]).any())
    for ranks in (2, 4):
        parts = [
            inputs_of(shards, share=0.7, strategy=strategy, rank=rank, ranks=ranks).views
            for rank in range(ranks)
        ]
        for name in ("exchanged", "query", "key"):
            assert torch.equal(torch.cat([part[name] for part in parts]), whole[name])
    monkeypatch.setattr("training.views.inputs.CACHED_BYTES", 3 * 4 * 3 * SIZE * SIZE)  # 3, 3 and 2
    chunks = inputs_of(shards, share=0.7, strategy=strategy).views
    torch.testing.assert_close(chunks, whole, rtol=0, atol=1e-6)  # rounding, if anything
    assert torch.equal(whole["negative-key-0"], chunks["negative-key-0"])
