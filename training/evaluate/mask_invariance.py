"""How far features stay what they are when patches are masked, by kind of patch and share.

Shapes: B batch, C channels, G grid side, N = G * G patches, M images, D features.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.saliency.foreground import foreground
from training.evaluate.look import Look, Views
from training.evaluate.subject import Subject
from training.randomness.draws import QUERY, torch_seeds, view_number
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.maskers import draw_masks
from training.views.patches import choose_patches, patches_to_pixels


class Invariance(NamedTuple):
    """Of one kind of mask at one ratio."""

    kind: str
    """foreground, background or random: the patches that may be masked."""
    ratio: float
    """The share of these patches that is masked."""
    masked_share: float
    """The share of all patches that is masked: at equal shares kinds can be compared."""
    cosine_I: NDArray[np.float32]
    """Of each image that has such patches, the cosine of f(x) and f(masked x)."""


def mask_invariance(
    look: Look,
    numbers: NDArray[np.int64],
    features_MD: Tensor,
    *,
    ratios: tuple[float, ...],
    fill: str,
) -> list[Invariance]:
    """Mask views and compare.

    Args:
        look: encoder and images; without saliency random patches alone are masked.
        numbers: of the images.
        features_MD: of their unmasked views.
        ratios: shares of the patches of a kind.
        fill: what stands in masked patches, a key of `FILLS`.
    """
    cosines: dict[tuple[str, float], list[Tensor]] = {}
    shares: dict[tuple[str, float], list[Tensor]] = {}
    done = 0
    for batch in look.batches(numbers):
        views = look.views(batch)
        unmasked = _unmasked(look, views)
        own_BD = features_MD[done : done + len(batch)]
        done += len(batch)
        for kind, stratum_BN in _kinds(look, views):
            there_B = stratum_BN.any(dim=1)  # an image without background says nothing of it
            for ratio in ratios:
                mask_B1N = _mask(look, views, stratum_BN, ratio)
                pixels = patches_to_pixels(mask_B1N, look.size).to(look.device)
                seen_BD = look.encode(FILLS[fill].apply(unmasked, pixels))
                at = (kind, ratio)
                cosine_B = F.cosine_similarity(seen_BD, own_BD, dim=1)
                cosines.setdefault(at, []).append(cosine_B[there_B])
                shares.setdefault(at, []).append(mask_B1N.float().mean(dim=(1, 2))[there_B])
    return [
        Invariance(*at, float(torch.cat(shares[at]).mean()), torch.cat(cosines[at]).numpy())
        for at in cosines
        if any(len(part) for part in cosines[at])
    ]


def fill_of(subject: Subject) -> str:
    """The fill that a run used, as far as its export tells."""
    config = subject.info.provenance.get("config")
    name = config.get("fill") if isinstance(config, dict) else None
    if name in FILLS:
        return str(name)
    return "mean" if subject.info.preprocessing.high_pass is None else "high_pass"


def _unmasked(look: Look, views: Views) -> UnmaskedView:
    size = (3, look.size, look.size)
    noise_seeds = torch_seeds(views.seeds_B).to(look.device)
    return UnmaskedView(
        look.subject.prepare(views.image01_BCSS),
        views.image01_BCSS,
        partial(sample_noise, noise_seeds, view=QUERY, size=size),
    )


def _kinds(look: Look, views: Views) -> list[tuple[str, Tensor]]:
    """Kinds of masks, each with the patches that may be masked, bool [B, N]."""
    every_BN = torch.ones(len(views.seeds_B), look.grid**2, dtype=torch.bool)
    if views.saliency_BGG is None:
        return [("random", every_BN)]
    object_BN = foreground(views.saliency_BGG).flatten(1)
    return [("foreground", object_BN), ("background", ~object_BN), ("random", every_BN)]


def _mask(look: Look, views: Views, stratum_BN: Tensor, ratio: float) -> Tensor:
    """Masked patches, bool [B, 1, N]: a share of the stratum, drawn uniformly."""
    draws = draw_masks(
        views.seeds_B,
        view=view_number(QUERY),
        ratio=(ratio, ratio),
        grid=look.grid,
        view_size=look.size,
        box_side=1,
    )
    nothing_BN = torch.zeros_like(stratum_BN)
    return choose_patches(draws.scores_BCN[:, :1], (stratum_BN, nothing_BN), draws.ratio_B)
