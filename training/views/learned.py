"""Masks that a generator chooses, a small network that is trained against the encoder.

After ADIOS (arXiv 2201.13100) and sequential adversarial masking (arXiv 2212.08277), the latter in
our reading. Hashed Gumbel noise perturbs the logits (arXiv 1903.06059), so a mask is a function of
(seed, epoch, sample, view) and the generator's weights.

Shapes: `B` batch, `C` channels, `G` grid side, `N` = G * G patches, `K` maps, `H W` pixels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.saliency.mask_generator import MaskGenerator
from training.core.distributed import gather_rows
from training.core.schedules import Moment
from training.randomness.draws import Stream, uniforms, view_number
from training.views import maskers
from training.views.maskers import MaskDraws, Masker, MaskerInputs, PatchMasker, float32
from training.views.patches import Counting, patches_to_pixels, whole_count
from training.views.settings import LearnedConfig, MaskConfig, ViewConfig

SMALLEST = 2.0**-25
"""Half the step of the uniform numbers, which are clipped to this and to 1 minus this."""
BETWEEN_IMAGES, MIX = "logits_between_images", "mask_mix"
"""In a run's record: `between_images`, and `mix_at` of the last step."""


class LearnedDraws(NamedTuple):
    """The numbers that decide the masks of one view of each sample."""

    plain: MaskDraws
    """Of the balanced mask; the learned one has its ratio and rounding."""
    scores_BKN: Tensor
    """Uniform in [0, 1), float32: the noise of each map."""
    learned_B: Tensor
    """Uniform in [0, 1), float32: whether the mask is learned."""
    slot_B: Tensor
    """The map of kind `slots` that is hidden, int64."""


class Chosen(NamedTuple):
    """Masks that a generator has chosen, with its gradient."""

    mask_BN: Tensor
    """1 where masked, else 0, float32; its gradient is that of the relaxed mask."""
    logits_BKN: Tensor
    """Of the first pass."""
    penalty: Tensor | float = 0.0
    """Of the areas of slots."""


def gumbel_noise(scores: Tensor) -> Tensor:
    """-log(-log u) in float64, u being 1 - score: strategies mask the lowest scores."""
    u = (1 - scores.double()).clamp(SMALLEST, 1 - SMALLEST)
    return -torch.log(-torch.log(u))


def top_patches(values_BN: Tensor, count_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The patches of highest value, bool, equal ones by their number, and that choice relaxed.

    sigmoid((value - t) / temperature), t being the last chosen value without gradient; 0 where
    none is chosen.
    """
    sorted_BN, order_BN = values_BN.detach().sort(dim=1, descending=True, stable=True)
    hard_BN = torch.argsort(order_BN, dim=1) < count_B[:, None]
    threshold_B1 = sorted_BN.gather(1, (count_B[:, None] - 1).clamp(min=0))
    soft_BN = torch.sigmoid((values_BN - threshold_B1) / temperature)
    return hard_BN, soft_BN * (count_B > 0)[:, None]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, to the bit, with the gradient of `soft`; float32."""
    return (hard + (soft - soft.detach())).float()


Inputs = tuple[MaskGenerator, Tensor, LearnedDraws, Tensor, LearnedConfig]
"""The generator, prepared views, draws, patches to mask `[B]`, and settings."""


def ranked(inputs: Inputs) -> Chosen:
    """`topk` and `sequential`: the highest logits plus noise, in passes of equal shares."""
    generator, view_BCHW, draws, count_B, config = inputs
    noise_BN, passes = gumbel_noise(draws.scores_BKN[:, 0]), config.num_passes
    passes = passes if config.kind == "sequential" else 1
    mask_BN, done_B = torch.zeros_like(noise_BN, dtype=torch.float32), torch.zeros_like(count_B)
    grid, logits = (math.isqrt(noise_BN.shape[1]),) * 2, list[Tensor]()
    for until in range(1, passes + 1):
        hidden_BN = mask_BN.detach()
        logits.append(generator(view_BCHW, hidden_BN.unflatten(1, grid)).flatten(2))
        values_BN = (logits[-1][:, 0] + noise_BN).masked_fill(hidden_BN > 0, -torch.inf)
        until_B = count_B * until // passes
        choice = top_patches(values_BN, until_B - done_B, config.temperature)
        mask_BN, done_B = mask_BN + straight_through(*choice), until_B
    return Chosen(mask_BN, logits[0])


def slots(inputs: Inputs) -> Chosen:
    """Each patch is in the map of highest logit plus noise; one map of each view is hidden."""
    generator, view_BCHW, draws, _, config = inputs
    logits_BKN = generator(view_BCHW).flatten(2)
    values_BKN = logits_BKN + gumbel_noise(draws.scores_BKN)
    soft_BKN = functional.softmax(values_BKN / config.temperature, dim=1)
    hard_BKN = functional.one_hot(values_BKN.argmax(dim=1), config.num_slots).mT
    mask_BKN, own_B11 = straight_through(hard_BKN, soft_BKN), draws.slot_B[:, None, None]
    mask_BN = mask_BKN.gather(1, own_B11.expand(-1, 1, mask_BKN.shape[2])).squeeze(1)
    return Chosen(mask_BN, logits_BKN, config.area_penalty * area_penalty(soft_BKN))


KINDS: dict[str, Callable[[Inputs], Chosen]] = {
    "topk": ranked,
    "slots": slots,
    "sequential": ranked,
}


def area_penalty(soft_BKN: Tensor) -> Tensor:
    """ADIOS's 1 / sin(pi * area), mean over views and maps; area is a map's share of the view."""
    return (1 / (torch.sin(torch.pi * soft_BKN.mean(dim=2)) + 1e-6)).mean()


def random_patches(draws: LearnedDraws, mask_BN: Tensor) -> Tensor:
    """Uniformly random masks of as many patches, by the same noise: float32 `[B, N]`."""
    count_B = mask_BN.sum(dim=1).round().long()
    return top_patches(gumbel_noise(draws.scores_BKN[:, 0]), count_B, 1.0)[0].float()


def between_images(logits_BKN: Tensor) -> Tensor:
    """Share, in [0, 1], of the logits' variance that is between images at the same patch.

    Over the global batch, after a shift that changes no mask: the mean over the patches (over the
    maps, if there are several) is 0. Near 0 all images have the same mask.
    """
    logits_BKN = gather_rows(logits_BKN.detach()).double()
    over = 1 if logits_BKN.shape[1] > 1 else 2
    centred_BX = (logits_BKN - logits_BKN.mean(dim=over, keepdim=True)).flatten(1)
    between = centred_BX.var(dim=0, correction=0).mean()
    return between / centred_BX.var(correction=0).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class LearnedMasker(Masker):
    """Learned masks for a share of the views, `mix`, and balanced ones for the others.

    Without a generator, as in the loader, which only draws, all masks are balanced.
    """

    config: MaskConfig
    plain: PatchMasker
    generator: MaskGenerator | None = None
    mix: float = 0.0
    sees_view = True

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> LearnedDraws:
        """Draw the balanced mask, the noise and the choices."""
        number, maps, patches = view_number(view), num_maps(self.config.learned), cut.grid**2
        scores = uniforms(seeds_B, number, Stream.MASK_SCORES, maps * patches)
        slot_B = uniforms(seeds_B, number, Stream.LEARNED_SLOT, 1)[:, 0] * maps
        return LearnedDraws(
            plain=self.plain.draw(seeds_B, view=view, cut=cut),
            scores_BKN=float32(scores).reshape(-1, maps, patches),
            learned_B=float32(uniforms(seeds_B, number, Stream.LEARNED_APPLY, 1)[:, 0]),
            slot_B=torch.from_numpy(slot_B.astype(np.int64)),
        )

    def mask(self, draws: LearnedDraws, inputs: MaskerInputs) -> Tensor:
        """The masked pixels: bool, `[B, 1, H, W]`."""
        balanced_B1HW = self.plain.mask(draws.plain, inputs)
        if self.generator is None or self.mix == 0:
            return balanced_B1HW
        assert inputs.view_BCHW is not None
        patches_BN = self.choose(draws, inputs.view_BCHW).mask_BN > 0
        patches_BN &= (draws.plain.apply_B < self.plain.share)[:, None]
        learned_B1HW = patches_to_pixels(patches_BN[:, None], inputs.view_size)
        is_learned_B = draws.learned_B < self.mix
        return torch.where(is_learned_B[:, None, None, None], learned_B1HW, balanced_B1HW)

    def choose(self, draws: LearnedDraws, view_BCHW: Tensor) -> Chosen:
        """The generator's masks of all prepared views."""
        assert self.generator is not None
        round_B2 = draws.plain.count_B2 if self.config.count == "matched" else None
        patches, counting = draws.scores_BKN.shape[2], Counting(round_B2=round_B2)
        count_B = whole_count(draws.plain.ratio_B, patches, counting)
        learned = self.config.learned
        return KINDS[learned.kind]((self.generator, view_BCHW, draws, count_B, learned))


def num_maps(config: LearnedConfig) -> int:
    """Maps that the generator gives."""
    return config.num_slots if config.kind == "slots" else 1


def new_generator(config: LearnedConfig, cut: ViewConfig) -> MaskGenerator:
    """An untrained generator, whose masks are random; torch's global generator draws weights."""
    return MaskGenerator(
        patch=cut.size // cut.grid,
        view_size=cut.size,
        num_maps=num_maps(config),
        width=config.width,
        sees_hidden=config.kind == "sequential",
    )


def mix_at(config: LearnedConfig, moment: Moment) -> float:
    """The share of learned masks at a step: 0 until `start_epoch`, then a ramp to `mix`."""
    since = moment.step / moment.steps_per_epoch - config.start_epoch
    if since < 0 or not config.ramp_epochs:
        return 0.0 if since < 0 else config.mix
    return config.mix * min(1.0, since / config.ramp_epochs)


def learned_masker(config: MaskConfig, high_pass: bool) -> LearnedMasker:
    """The masker of strategy `learned`; a run's settings refuse the high-pass fill."""
    assert not high_pass
    plain = maskers.strategy_masker(replace(config, strategy="balanced"), high_pass)
    return LearnedMasker(config=config, plain=plain)


maskers.MASKERS["learned"] = learned_masker
