"""Masks that a generator chooses, a small network that is trained against the encoder.

After ADIOS (arXiv 2201.13100) and sequential adversarial masking (arXiv 2212.08277), the latter in
our reading. The generator's logits are perturbed by hashed Gumbel noise (arXiv 1903.06059), so a
mask is a function of (seed, epoch, sample, view) and the generator's weights.

Shapes: `B` batch, `C` channels, `G` grid side, `N` = G * G patches, `K` maps, `H W` pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from pipeline.saliency.mask_generator import GeneratorInfo, MaskGenerator
from training.core.distributed import gather_rows
from training.core.schedules import Moment
from training.randomness.draws import Stream, uniforms, view_number
from training.views.maskers import (
    MASKERS,
    MaskDraws,
    Masker,
    MaskerInputs,
    PatchMasker,
    float32,
    strategy_masker,
)
from training.views.patches import Counting, patches_to_pixels, whole_count
from training.views.settings import LearnedConfig, MaskConfig, ViewConfig

SMALLEST = 2.0**-25
"""Half the step of the uniform numbers: they are clipped to this, and to 1 minus this."""

BETWEEN_IMAGES, MIX = "logits_between_images", "mask_mix"
"""In a run's record: `between_images`, and `mix_at` of the last step."""


class LearnedDraws(NamedTuple):
    """The numbers that decide the masks of one view of each sample."""

    plain: MaskDraws
    """Of the balanced mask. Ratio and rounding are those of the learned mask, too."""
    scores_BKN: Tensor
    """Uniform in [0, 1), float32: the noise of each map."""
    learned_B: Tensor
    """Uniform in [0, 1), float32: whether a view has a learned mask."""
    slot_B: Tensor
    """The map of kind `slots` that is hidden, int64."""


class Chosen(NamedTuple):
    """Masks that a generator has chosen, with its gradient."""

    mask_BN: Tensor
    """1 where masked, else 0, float32; its gradient is that of the relaxed mask."""
    logits_BKN: Tensor
    """Of the first pass."""
    soft_BKN: Tensor
    """Relaxed masks, in [0, 1]."""


def gumbel_noise(scores: Tensor) -> Tensor:
    """-log(-log u) in float64, u being 1 - score: strategies mask the lowest scores."""
    u = (1 - scores.double()).clamp(SMALLEST, 1 - SMALLEST)
    return -torch.log(-torch.log(u))


def top_patches(values_BN: Tensor, count_B: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The patches of highest value, and that choice relaxed.

    soft = sigmoid((value - t) / temperature), t being the value of the last patch that is chosen,
    without gradient. Equal values go to the lower patch number.

    Returns bool and float `[B, N]`, both 0 where the count is 0.
    """
    sorted_BN, order_BN = values_BN.detach().sort(dim=1, descending=True, stable=True)
    hard_BN = torch.argsort(order_BN, dim=1) < count_B[:, None]
    threshold_B1 = sorted_BN.gather(1, (count_B[:, None] - 1).clamp(min=0))
    soft_BN = torch.sigmoid((values_BN - threshold_B1) / temperature)
    return hard_BN, soft_BN * (count_B > 0)[:, None]


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of `hard`, to the bit, with the gradient of `soft`; float32."""
    return (hard + (soft - soft.detach())).float()


def topk(
    generator: MaskGenerator,
    view_BCHW: Tensor,
    draws: LearnedDraws,
    count_B: Tensor,
    config: LearnedConfig,
) -> Chosen:
    """The patches of highest logit plus noise."""
    return sequential(generator, view_BCHW, draws, count_B, replace(config, num_passes=1))


def sequential(
    generator: MaskGenerator,
    view_BCHW: Tensor,
    draws: LearnedDraws,
    count_B: Tensor,
    config: LearnedConfig,
) -> Chosen:
    """As `topk`, in passes of equal shares of the count; each sees what is hidden already."""
    noise_BN, first_BKN = gumbel_noise(draws.scores_BKN[:, 0]), None
    mask_BN, done_B = torch.zeros_like(noise_BN, dtype=torch.float32), torch.zeros_like(count_B)
    softs = []
    for number in range(1, config.num_passes + 1):
        grid = round(noise_BN.shape[1] ** 0.5)
        hidden_BN = mask_BN.detach()
        logits_BKN = generator(view_BCHW, hidden_BN.unflatten(1, (grid, grid))).flatten(2)
        first_BKN = logits_BKN if first_BKN is None else first_BKN
        values_BN = (logits_BKN[:, 0] + noise_BN).masked_fill(hidden_BN > 0, -torch.inf)
        until_B = count_B * number // config.num_passes
        hard_BN, soft_BN = top_patches(values_BN, until_B - done_B, config.temperature)
        mask_BN, done_B = mask_BN + straight_through(hard_BN, soft_BN), until_B
        softs.append(soft_BN)
    assert first_BKN is not None
    return Chosen(mask_BN, first_BKN, torch.stack(softs, dim=1))


def slots(
    generator: MaskGenerator,
    view_BCHW: Tensor,
    draws: LearnedDraws,
    count_B: Tensor,
    config: LearnedConfig,
) -> Chosen:
    """Each patch belongs to the map of highest logit plus noise; one map of each view is hidden."""
    logits_BKN = generator(view_BCHW).flatten(2)
    values_BKN = logits_BKN + gumbel_noise(draws.scores_BKN)
    soft_BKN = functional.softmax(values_BKN / config.temperature, dim=1)
    hard_BKN = functional.one_hot(values_BKN.argmax(dim=1), config.num_slots).mT
    mask_BKN, own_B11 = straight_through(hard_BKN, soft_BKN), draws.slot_B[:, None, None]
    mask_BN = mask_BKN.gather(1, own_B11.expand(-1, 1, mask_BKN.shape[2])).squeeze(1)
    return Chosen(mask_BN, logits_BKN, soft_BKN)


KINDS: dict[str, Callable[..., Chosen]] = {"topk": topk, "slots": slots, "sequential": sequential}


def area_penalty(soft_BKN: Tensor) -> Tensor:
    """ADIOS's 1 / sin(pi * area), mean over views and maps; area is a map's share of the view."""
    return (1 / (torch.sin(torch.pi * soft_BKN.mean(dim=2)) + 1e-6)).mean()


def between_images(logits_BKN: Tensor) -> Tensor:
    """Share, in [0, 1], of the logits' variance that is between images at the same patch.

    Over the global batch, after a shift that changes no mask: each view's mean over its patches
    (over its maps, where there are several) is 0. Near 0 all images have the same mask; 0 where
    nothing varies.
    """
    logits_BKN = gather_rows(logits_BKN.detach())
    over = 1 if logits_BKN.shape[1] > 1 else 2
    centred_BX = (logits_BKN - logits_BKN.mean(dim=over, keepdim=True)).flatten(1).double()
    between = centred_BX.var(dim=0, correction=0).mean()
    return between / centred_BX.var(correction=0).clamp(min=1e-12)


@dataclass(frozen=True, kw_only=True)
class LearnedMasker(Masker):
    """Learned masks for a share of the views, balanced ones for the others.

    Without a generator (in the loader, which only draws) all masks are balanced.
    """

    config: MaskConfig
    plain: PatchMasker
    generator: MaskGenerator | None = None
    mix: float = 0.0
    """Share of the views that have a learned mask, in [0, 1]."""

    @property
    def sees_view(self) -> bool:  # type: ignore[override]
        """With a generator, which looks at it."""
        return self.generator is not None

    def draw(self, seeds_B: NDArray[np.uint64], *, view: str, cut: ViewConfig) -> LearnedDraws:
        """Draw the balanced mask, the noise and the choices."""
        settings, number, patches = self.config.learned, view_number(view), cut.grid**2
        maps = num_maps(settings)
        scores = uniforms(seeds_B, number, Stream.MASK_SCORES, maps * patches)
        slot_B1 = uniforms(seeds_B, number, Stream.LEARNED_SLOT, 1) * maps
        return LearnedDraws(
            plain=self.plain.draw(seeds_B, view=view, cut=cut),
            scores_BKN=float32(scores).reshape(-1, maps, patches),
            learned_B=float32(uniforms(seeds_B, number, Stream.LEARNED_APPLY, 1)[:, 0]),
            slot_B=torch.from_numpy(slot_B1[:, 0].astype(np.int64)),
        )

    def mask(self, draws: LearnedDraws, inputs: MaskerInputs) -> Tensor:
        """The masked pixels: bool, `[B, 1, H, W]`."""
        mask_B1HW = self.plain.mask(draws.plain, inputs)
        if self.generator is None or self.mix == 0:
            return mask_B1HW
        assert inputs.view_BCHW is not None
        patches_BN = self.choose(draws, inputs.view_BCHW).mask_BN > 0
        patches_BN &= (draws.plain.apply_B < self.plain.share)[:, None]
        learned_B1HW = patches_to_pixels(patches_BN[:, None], inputs.view_size)
        return torch.where(
            (draws.learned_B < self.mix)[:, None, None, None], learned_B1HW, mask_B1HW
        )

    def choose(self, draws: LearnedDraws, view_BCHW: Tensor) -> Chosen:
        """The generator's masks of prepared views, whichever masks they get."""
        settings, generator = self.config.learned, self.generator
        assert generator is not None
        patches = draws.scores_BKN.shape[2]
        round_B2 = draws.plain.count_B2 if self.config.count == "matched" else None
        count_B = whole_count(draws.plain.ratio_B, patches, Counting(round_B2=round_B2))
        with torch.autocast(view_BCHW.device.type, enabled=False):
            return KINDS[settings.kind](generator, view_BCHW, draws, count_B, settings)


def random_patches(draws: LearnedDraws, mask_BN: Tensor) -> Tensor:
    """Uniformly random masks of as many patches, by the same numbers: float32 `[B, N]`."""
    count_B = mask_BN.sum(dim=1).round().long()
    hard_BN, _ = top_patches(gumbel_noise(draws.scores_BKN[:, 0]), count_B, 1.0)
    return hard_BN.float()


def num_maps(config: LearnedConfig) -> int:
    """Maps that the generator gives."""
    return config.num_slots if config.kind == "slots" else 1


def new_generator(config: MaskConfig, cut: ViewConfig) -> MaskGenerator:
    """An untrained generator, whose masks are random; torch's global generator draws weights."""
    settings = config.learned
    return MaskGenerator(
        GeneratorInfo(
            patch=cut.size // cut.grid,
            view_size=cut.size,
            num_maps=num_maps(settings),
            width=settings.width,
            sees_hidden=settings.kind == "sequential" and settings.num_passes > 1,
        )
    )


def mix_at(config: LearnedConfig, moment: Moment) -> float:
    """The share of learned masks at a step: 0 until `start_epoch`, then a ramp to `mix`."""
    since = moment.step / moment.steps_per_epoch - config.start_epoch
    if since < 0:
        return 0.0
    return config.mix * (min(1.0, since / config.ramp_epochs) if config.ramp_epochs else 1.0)


def learned_masker(config: MaskConfig, high_pass: bool) -> LearnedMasker:
    """The masker of strategy `learned`; whole configurations refuse the high-pass fill."""
    assert not high_pass
    plain = strategy_masker(replace(config, strategy="balanced"), high_pass)
    return LearnedMasker(config=config, plain=plain)


MASKERS["learned"] = learned_masker
