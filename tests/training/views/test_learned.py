"""Masks that a generator chooses: noise, counts, kinds, the mix, and what is measured of them."""

import math

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
    logits: Tensor | None = None, *, mix: float = 1.0, kind: str = "topk", **masks: object
) -> LearnedMasker:
    """A bound masker; without logits those of random ones, for each image its own."""
    maps = 4 if kind == "slots" else 1
    given = torch.randn(BATCH, maps, GRID, GRID) if logits is None else logits
    made = {"learned": LearnedConfig(kind=kind), "count": "matched", **masks}  # type: ignore[arg-type]
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


def test_the_noise_is_finite_and_keeps_the_order_of_all_scores() -> None:
    first, last = torch.tensor([0.0, 1 - 2**-24]), torch.arange(1.0, 5.0) * 2**-24
    ends = gumbel_noise(first)
    largest = -math.log(-math.log1p(-(2**-25)))
    assert ends.tolist() == pytest.approx([largest, -math.log(24 * math.log(2))], rel=1e-12)
    # Neighbours stay apart beside large logits too, where float32 would not tell them apart.
    for start in (0.0, 1 - math.exp(-1), 1 - 8 * 2**-24):
        neighbours = torch.cat((torch.tensor([start]), start + last)).float()
        assert bool((gumbel_noise(neighbours).float().diff() <= 0).all())
        assert bool(((gumbel_noise(neighbours) + 100.0).diff() < 0).all())
    gumbel = gumbel_noise(torch.rand(200_000))
    assert float(gumbel.mean()) == pytest.approx(0.5772, abs=4 * 1.283 / 200_000**0.5)


@pytest.mark.parametrize("kind", ["topk", "sequential"])
@pytest.mark.parametrize("count", ["matched", "paper"])
def test_equal_logits_give_exactly_the_uniform_draw(kind: str, count: str) -> None:
    masker = masker_of(torch.full((BATCH, 1, GRID, GRID), 7.3), kind=kind, count=count)
    draws = draws_of(masker)
    plain, found = draws.plain, masked_patches(masker, draws)
    assert torch.equal(draws.scores_BKN[:, 0], plain.scores_BCN[:, 0])
    if count == "matched":
        nothing = torch.zeros(BATCH, PATCHES)
        view = StrategyInputs(
            nothing.bool(),
            nothing,
            plain.scores_BCN,
            plain.ratio_B,
            0.0,
            Counting(round_B2=plain.count_B2),
        )
        assert torch.equal(found, random(view)[:, 0])
    for image in range(BATCH):
        expected = plain.ratio_B[image] * PATCHES
        k = math.floor(expected + (plain.count_B2[image, 0] if count == "matched" else 0))
        lowest = plain.scores_BCN[image, 0].sort().indices[:k]
        assert sorted(lowest.tolist()) == found[image].nonzero().flatten().tolist()


def test_top_patches_are_those_of_a_slow_reference() -> None:
    values, count = torch.randn(40, PATCHES).double(), torch.randint(0, PATCHES + 1, (40,))
    values[:, 3] = values[:, 5]  # equal values go to the lower number
    count[:2] = torch.tensor([0, PATCHES])
    hard, soft = top_patches(values, count, 0.7)
    for row in range(40):
        order = sorted(range(PATCHES), key=lambda n: (-float(values[row, n]), n))
        chosen, k = order[: int(count[row])], int(count[row])
        assert hard[row].nonzero().flatten().tolist() == sorted(chosen)
        for n in range(PATCHES):
            level = float(values[row, order[k - 1]])
            relaxed = 1 / (1 + math.exp(-(float(values[row, n]) - level) / 0.7)) if k else 0.0
            assert float(soft[row, n]) == pytest.approx(relaxed, abs=1e-12)


def test_a_mask_has_the_value_of_the_choice_and_the_gradient_of_the_relaxed_one() -> None:
    values, weight = torch.randn(5, PATCHES).double().requires_grad_(), torch.randn(5, PATCHES)
    count = torch.tensor([1, 4, 0, 16, 7])
    hard, soft = top_patches(values, count, 1.0)
    mask = straight_through(hard, soft)
    assert torch.equal(mask, hard.float())
    (through,) = torch.autograd.grad((mask * weight).sum(), values, retain_graph=True)
    (direct,) = torch.autograd.grad((soft * weight).sum(), values)
    torch.testing.assert_close(through, direct)
    assert torch.equal(through.abs().sum(dim=1) == 0, count == 0)


def test_slots_share_out_the_patches_and_hide_one_that_the_hash_chooses() -> None:
    masker = masker_of(kind="slots")
    draws = draws_of(masker)
    uniform = uniforms(SEEDS, QUERY_VIEW, Stream.LEARNED_SLOT, 1)[:, 0]
    assert draws.slot_B.tolist() == np.floor(4 * uniform).astype(int).tolist()
    assert set(draws.slot_B.tolist()) == {0, 1, 2, 3}
    each = [
        masked_patches(masker, draws._replace(slot_B=torch.full((BATCH,), slot)))
        for slot in range(4)
    ]
    assert bool((torch.stack(each).sum(dim=0) == 1).all()), "each patch is in one map"
    own = torch.stack([each[int(slot)][image] for image, slot in enumerate(draws.slot_B)])
    assert torch.equal(masked_patches(masker, draws), own)
    generator = masker.generator
    assert isinstance(generator, Given)
    values = generator.logits_BKGG.flatten(2) + gumbel_noise(draws.scores_BKN)
    assert torch.equal(each[2], values.argmax(dim=1) == 2)
    penalty = area_penalty(torch.tensor([[[0.25] * 4, [0.5] * 4]]))
    assert float(penalty) == pytest.approx((1 / math.sin(math.pi / 4) + 1) / 2, rel=1e-5)


def test_sequential_passes_hide_shares_of_the_count_and_see_what_is_hidden() -> None:
    settings = LearnedConfig(kind="sequential", num_passes=3)
    masker = masker_of(kind="sequential", learned=settings, query_ratio=(0.5, 0.5), count="paper")
    draws = draws_of(masker)
    chosen = masker.choose(draws, torch.zeros(BATCH, 3, SIZE, SIZE))
    generator = masker.generator
    assert isinstance(generator, Given)
    first, second, third = generator.hidden
    assert [set(one.sum(dim=1).tolist()) for one in (first, second, third)] == [{0}, {2}, {5}]
    values = generator.logits_BKGG.flatten(1) + gumbel_noise(draws.scores_BKN[:, 0])
    rank = values.argsort(dim=1, descending=True).argsort(dim=1)
    for mask, count in ((second, 2), (third, 5), (chosen.mask_BN, 8)):
        assert torch.equal(mask > 0, rank < count)  # the same logits in each pass


def test_a_share_of_the_views_has_learned_masks_and_the_others_balanced_ones() -> None:
    learned, balanced = masker_of(mix=1.0), masker_of(mix=0.0)
    draws = draws_of(learned)
    always, never = masked_patches(learned, draws), masked_patches(balanced, draws)
    half = masked_patches(masker_of(learned.generator.logits_BKGG, mix=0.5), draws)  # type: ignore[union-attr]
    uniform = torch.from_numpy(uniforms(SEEDS, QUERY_VIEW, Stream.LEARNED_APPLY, 1)[:, 0])
    taken = (uniform < 0.5)[:, None]
    assert 16 < int(taken.sum()) < 48
    assert torch.equal(half, torch.where(taken, always, never))
    assert torch.equal(
        never, masked_patches(LearnedMasker(config=learned.config, plain=learned.plain), draws)
    )
    rare = masked_patches(masker_of(learned.generator.logits_BKGG, probability=0.3), draws)  # type: ignore[union-attr]
    masked = (draws.plain.apply_B < 0.3)[:, None]
    assert torch.equal(rare, always & masked)


def test_the_mix_rises_from_its_start_to_its_greatest_value() -> None:
    config = LearnedConfig(start_epoch=2, ramp_epochs=4, mix=0.5)
    found = [mix_at(config, Moment(step, 10, 100)) for step in (0, 19, 20, 30, 60, 99)]
    assert found == [0.0, 0.0, 0.0, 0.125, 0.5, 0.5]
    at_once = LearnedConfig(start_epoch=0, ramp_epochs=0, mix=0.3)
    assert mix_at(at_once, Moment(0, 10, 100)) == 0.3


def test_random_masks_are_of_equal_size_and_those_of_equal_logits() -> None:
    for kind in ("topk", "slots"):
        masker = masker_of(kind=kind)
        draws = draws_of(masker)
        mask = masker.choose(draws, torch.zeros(1)).mask_BN
        other = random_patches(draws, mask)
        assert torch.equal(other.sum(dim=1), mask.sum(dim=1))
        assert not torch.equal(other, mask)
        equal = masker_of(torch.zeros(BATCH, 1, GRID, GRID)).choose(draws, torch.zeros(1)).mask_BN
        if kind == "topk":
            assert torch.equal(other, equal)


def test_the_share_of_the_variance_between_images() -> None:
    per_patch, per_image = torch.randn(1, 1, PATCHES), torch.randn(BATCH, 1, 1)
    own = torch.randn(BATCH, 1, PATCHES)
    own -= own.mean(dim=0)  # its mean map is exactly 0
    assert float(between_images(per_patch + per_image)) == pytest.approx(0, abs=1e-6)
    assert float(between_images(own)) == pytest.approx(1, abs=1e-5)
    assert float(between_images(torch.zeros(BATCH, 1, PATCHES))) == 0
    both = own - own.mean(dim=2, keepdim=True)
    mixed = both + (per_patch - per_patch.mean()) * both.std(correction=0) / per_patch.std(
        correction=0
    )
    assert float(between_images(mixed)) == pytest.approx(0.5, abs=1e-5)
    shifted = torch.randn(1, 3, PATCHES) + torch.randn(BATCH, 1, PATCHES)  # the same for all maps
    assert float(between_images(shifted)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("size", "grid"), [(224, 7), (64, 8), (32, 4), (96, 8), (32, 8)])
def test_a_generator_of_any_view_is_small_and_starts_with_random_masks(
    size: int, grid: int
) -> None:
    cut = ViewConfig(size=size, grid=grid)
    view = settings_of(size=size, grid=grid, strategy="learned").query()
    assert isinstance(view.masker, LearnedMasker)
    generator = new_generator(view.masker.config.learned, cut)
    assert 50_000 <= sum(p.numel() for p in generator.parameters()) <= 200_000
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    images = torch.randn(2, 3, size, size)
    assert torch.equal(generator(images), torch.zeros(2, 1, grid, grid))
    torch.nn.init.normal_(generator.out.weight)
    both, alone = generator(images), generator(images[1:])
    torch.testing.assert_close(
        both[1:], alone, rtol=1e-4, atol=1e-4
    )  # nothing is shared between images
    assert float(both.detach().std()) > 0.01
