"""Masks that a generator chooses: noise, counts, kinds, the mix, and what is measured of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.saliency.mask_generator import MaskGenerator
from tests.training.views.made import QUERY_VIEW, settings_of
from training.core.schedules import Moment
from training.randomness.draws import Stream, sample_seeds, uniforms
from training.views.learned import (
    LearnedDraws,
    LearnedMasker,
    area_penalty,
    between_images,
    gumbel_noise,
    mix_at,
    new_generator,
    random_patches,
    straight_through,
    top_patches,
)
from training.views.maskers import MaskerInputs
from training.views.patches import Counting, StrategyInputs, random
from training.views.settings import LearnedConfig, ViewConfig
from training.views.spec import with_generator

BATCH, GRID, SIZE, PATCHES = 64, 4, 32, 16
SEEDS = sample_seeds(3, 1, np.arange(BATCH))


class Given(MaskGenerator):
    """Gives these logits, [B, K, G, G], and remembers what it was told is hidden."""

    def __init__(self, logits_BKGG: Tensor) -> None:
        super().__init__(patch=SIZE // GRID, view_size=SIZE, sees_hidden=True)
        self.logits_BKGG, self.hidden = logits_BKGG, list[Tensor]()

    def forward(self, view_BCHW: Tensor, hidden_BNN: Tensor | None = None) -> Tensor:
        if hidden_BNN is not None:
            self.hidden.append(hidden_BNN.flatten(1))
        return self.logits_BKGG


def masker_of(
    logits: Tensor | None = None,
    *,
    mix: float = 1.0,
    kind: str = "topk",
    **masks: Any,  # noqa: ANN401
) -> LearnedMasker:
    """A bound masker; without logits those of random ones, for each image its own."""
    maps = 4 if kind == "slots" else 1
    given = torch.randn(BATCH, maps, GRID, GRID) if logits is None else logits
    learned: Any = LearnedConfig(kind=kind)  # type: ignore[arg-type]
    made = {"learned": learned, "count": "matched", **masks}
    view = settings_of(size=SIZE, grid=GRID, strategy="learned", **made).query()
    (bound,) = with_generator((view,), Given(given), mix)
    assert isinstance(bound.masker, LearnedMasker)
    return bound.masker


def draws_of(masker: LearnedMasker) -> LearnedDraws:
    return masker.draw(SEEDS, view="query", cut=ViewConfig(size=SIZE, grid=GRID))


def masked_patches(masker: LearnedMasker, draws: LearnedDraws) -> Tensor:
    """Bool [B, N], of views half of whose patches are foreground."""
    foreground = (torch.arange(PATCHES) < PATCHES // 2).view(1, GRID, GRID).expand(BATCH, -1, -1)
    inputs = MaskerInputs(foreground, foreground.float(), SIZE, None, torch.zeros(BATCH, 3, 32, 32))
    mask = masker.mask(draws, inputs)
    side = SIZE // GRID
    assert mask.shape == (BATCH, 1, SIZE, SIZE)
    return mask[:, 0, ::side, ::side].flatten(1)


def generator_of(masker: LearnedMasker) -> Given:
    assert isinstance(masker.generator, Given)
    return masker.generator


def test_the_noise_is_finite_and_keeps_the_order_of_all_scores() -> None:
    ends = gumbel_noise(torch.tensor([0.0, 1 - 2**-24]))
    largest = -math.log(-math.log1p(-(2**-25)))
    assert ends.tolist() == pytest.approx([largest, -math.log(24 * math.log(2))], rel=1e-12)
    # Neighbours stay apart beside large logits too, where float32 would not tell them apart.
    for start in (0.0, 1 - math.exp(-1), 1 - 8 * 2**-24):
        neighbours = (start + torch.arange(5.0) * 2**-24).float()
        assert bool(((gumbel_noise(neighbours) + 100.0).diff() < 0).all())
    gumbel = gumbel_noise(torch.rand(200_000))
    assert float(gumbel.mean()) == pytest.approx(0.5772, abs=4 * 1.283 / 200_000**0.5)


@pytest.mark.parametrize("kind", ["topk", "sequential"])
@pytest.mark.parametrize("count", ["matched", "paper"])
def test_equal_logits_give_exactly_the_uniform_draw(kind: str, count: str) -> None:
    masker = masker_of(torch.full((BATCH, 1, GRID, GRID), 7.3), kind=kind, count=count)
    draws = draws_of(masker)
    plain, found = draws.plain, masked_patches(masker, draws)
    if count == "matched":  # `random` rounds its counts otherwise where they are the paper's
        none = torch.zeros(BATCH, PATCHES)
        counting = Counting(round_B2=plain.count_B2)
        view = StrategyInputs(none > 0, none, plain.scores_BCN, plain.ratio_B, 0.0, counting)
        assert torch.equal(found, random(view)[:, 0])
    else:
        rank = plain.scores_BCN[:, 0].argsort(dim=1).argsort(dim=1)
        assert torch.equal(found, rank < (plain.ratio_B * PATCHES).floor()[:, None])


def test_top_patches_and_their_gradient_are_those_of_a_slow_reference() -> None:
    values = torch.randn(40, PATCHES).double()
    values[:, 3] = values[:, 5]  # equal values go to the lower number
    count, weight = torch.randint(1, PATCHES + 1, (40,)), torch.randn(40, PATCHES)
    count[:2] = torch.tensor([0, PATCHES])
    hard, soft = top_patches(values.requires_grad_(), count, 0.7)
    mask = straight_through(hard, soft)
    assert torch.equal(mask, hard.float())
    (gradient,) = torch.autograd.grad((mask * weight).sum(), values)
    for row, k in enumerate(count.tolist()):
        own = values[row].tolist()
        order = sorted(range(PATCHES), key=lambda n: (-own[n], n))
        assert hard[row].nonzero().flatten().tolist() == sorted(order[:k])
        for n in range(PATCHES):
            relaxed = 1 / (1 + math.exp((own[order[k - 1]] - own[n]) / 0.7)) if k else 0.0
            slope = float(weight[row, n]) * relaxed * (1 - relaxed) / 0.7
            assert float(soft[row, n].detach()) == pytest.approx(relaxed, abs=1e-12)
            assert float(gradient[row, n]) == pytest.approx(slope, abs=1e-6)


def test_slots_share_out_the_patches_and_hide_one_that_the_hash_chooses() -> None:
    masker = masker_of(kind="slots")
    draws = draws_of(masker)
    uniform = uniforms(SEEDS, QUERY_VIEW, Stream.LEARNED_SLOT, 1)[:, 0]
    assert draws.slot_B.tolist() == np.floor(4 * uniform).astype(int).tolist()
    values = generator_of(masker).logits_BKGG.flatten(2) + gumbel_noise(draws.scores_BKN)
    assert torch.equal(masked_patches(masker, draws), values.argmax(dim=1) == draws.slot_B[:, None])
    penalty = area_penalty(torch.tensor([[[0.25] * 4, [0.5] * 4]]))
    assert float(penalty) == pytest.approx((1 / math.sin(math.pi / 4) + 1) / 2, rel=1e-5)


def test_sequential_passes_hide_shares_of_the_count_and_see_what_is_hidden() -> None:
    settings = LearnedConfig(kind="sequential", num_passes=3)
    masker = masker_of(learned=settings, query_ratio=(0.5, 0.5), count="paper")
    draws, generator = draws_of(masker), generator_of(masker)
    final = masked_patches(masker, draws)
    first, second, third = generator.hidden
    values = generator.logits_BKGG.flatten(1) + gumbel_noise(draws.scores_BKN[:, 0])
    rank = values.argsort(dim=1, descending=True).argsort(dim=1)
    for mask, count in ((first, 0), (second, 2), (third, 5), (final, 8)):
        assert torch.equal(mask > 0, rank < count)  # the same logits in each pass


def test_a_share_of_the_views_has_learned_masks_and_the_others_balanced_ones() -> None:
    learned = masker_of()
    draws, config = draws_of(learned), learned.config
    always = masked_patches(learned, draws)
    never = masked_patches(LearnedMasker(config=config, plain=learned.plain), draws)
    uniform = torch.from_numpy(uniforms(SEEDS, QUERY_VIEW, Stream.LEARNED_APPLY, 1)[:, 0])
    for mix in (0.0, 0.5):
        found = masked_patches(replace(learned, mix=mix), draws)
        assert torch.equal(found, torch.where((uniform < mix)[:, None], always, never))
    logits = generator_of(learned).logits_BKGG
    rare = masked_patches(masker_of(logits, probability=0.3), draws)
    assert torch.equal(rare, always & (draws.plain.apply_B < 0.3)[:, None])
    chosen = learned.choose(draws, torch.zeros(1)).mask_BN
    other = random_patches(draws, chosen)
    assert torch.equal(other.sum(dim=1), chosen.sum(dim=1))
    assert torch.equal(other > 0, masked_patches(masker_of(0 * logits), draws))


def test_the_mix_rises_from_its_start_to_its_greatest_value() -> None:
    config = LearnedConfig(start_epoch=2, ramp_epochs=4, mix=0.5)
    found = [mix_at(config, Moment(step, 10, 100)) for step in (0, 19, 20, 30, 60, 99)]
    assert found == [0.0, 0.0, 0.0, 0.125, 0.5, 0.5]
    at_once = LearnedConfig(start_epoch=1, ramp_epochs=0, mix=0.3)
    assert [mix_at(at_once, Moment(step, 10, 100)) for step in (9, 10)] == [0.0, 0.3]


def test_the_share_of_the_variance_between_images() -> None:
    per_patch, per_image = torch.randn(1, 1, PATCHES), torch.randn(BATCH, 1, 1)
    own = torch.randn(BATCH, 1, PATCHES)
    own -= own.mean(dim=0)  # its mean map is exactly 0
    own -= own.mean(dim=2, keepdim=True)
    alike = (per_patch - per_patch.mean()) * own.std(correction=0) / per_patch.std(correction=0)
    of_all_maps = torch.randn(1, 3, PATCHES) + torch.randn(BATCH, 1, PATCHES)  # changes no slot
    for logits, share in (
        (per_patch + per_image, 0.0),
        (own, 1.0),
        (own + alike, 0.5),
        (of_all_maps, 0.0),
        (0 * own, 0.0),
    ):
        assert float(between_images(logits)) == pytest.approx(share, abs=1e-5)


@pytest.mark.parametrize(("size", "grid"), [(224, 7), (64, 8), (32, 4), (32, 8)])
def test_a_generator_of_any_view_is_small_and_starts_with_random_masks(
    size: int, grid: int
) -> None:
    generator = new_generator(LearnedConfig(), ViewConfig(size=size, grid=grid))
    assert 50_000 <= sum(p.numel() for p in generator.parameters()) <= 200_000
    images = torch.randn(2, 3, size, size)
    assert torch.equal(generator(images), torch.zeros(2, 1, grid, grid))
    torch.nn.init.normal_(generator.out.weight)
    both, alone = generator(images).detach(), generator(images[1:])
    assert float(both.std()) > 0.01
    torch.testing.assert_close(both[1:], alone.detach(), rtol=1e-4, atol=1e-4)  # nothing is shared
