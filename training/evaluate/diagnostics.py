"""What the features of a frozen backbone are like, beside how well they classify.

Invariance to masks (cosine of f(x) and f(masked x) over the masked share of foreground, background
or all patches), alignment and uniformity, effective rank. None of them needs labels.

Shapes: B batch, G grid side, N = G * G patches, M images that are looked at, D features.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.progress import say
from pipeline.saliency.foreground import foreground
from training.core.distributed import rank
from training.evaluate.case import Case
from training.evaluate.encoders import NamedEncoder
from training.evaluate.geometry import (
    alignment,
    effective_rank,
    effective_rank_interval,
    uniformity,
    uniformity_interval,
)
from training.evaluate.image_views import centre_views, in_batches, two_views
from training.evaluate.intervals import mean_interval
from training.evaluate.labelled import evenly_chosen
from training.evaluate.results import Result
from training.randomness.draws import QUERY, sample_seeds, torch_seeds, view_number
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.maskers import draw_masks
from training.views.patches import choose_patches, patches_to_pixels


def diagnostics(case: Case) -> list[Result]:
    """The protocol `diagnostics`; every rank computes all of it.

    Masks of foreground and background need saliency: without it their figures are left out.

    Raises:
        InputError: fewer than two images, a grid that does not divide the view.
    """
    config, seed, images = case.config.diagnostics, case.config.seed, case.val
    if images.saliency_source is None and rank() == 0:
        say(f"diagnostics: {images.root} has no saliency: random patches alone are masked")
    grid = config.grid_of(case.extractor.view_size)
    fill = config.fill or fill_of(case.encoder)
    chosen_M = evenly_chosen(images.num_images, config.max_images)
    features_MD = case.features_val[0].cpu()[torch.from_numpy(chosen_M)]

    def result(
        name: str,
        figure: float,
        interval: tuple[float, float] | None,
        variant: str = "",
        **more: Any,  # noqa: ANN401
    ) -> Result:
        return case.result(
            "diagnostics",
            name,
            figure,
            interval=interval,
            variant=variant,
            settings=asdict(config) | more,
        )

    def mean(name: str, values: NDArray[Any], variant: str = "", **more: Any) -> Result:  # noqa: ANN401
        return result(name, float(values.mean()), mean_interval(values, seed=seed), variant, **more)

    with torch.no_grad():
        views = two_views(case.extractor, images, chosen_M, seed=seed)
        cosines = mask_invariance(case, chosen_M, features_MD, grid=grid, fill=fill)
    rank_interval = effective_rank_interval(features_MD, seed=seed)
    return [
        mean("alignment", alignment(*views).double().numpy()),
        result("uniformity", uniformity(features_MD), uniformity_interval(features_MD, seed=seed)),
        result(
            "effective_rank",
            effective_rank(features_MD),
            rank_interval,
            feature_dim=features_MD.shape[1],
        ),
        *(
            mean(
                "cosine",
                cosine_I.numpy(),
                variant,
                fill=fill,
                masked_share_of_view=masked_share,
                saliency=images.saliency_source,
            )
            for variant, (cosine_I, masked_share) in cosines.items()
        ),
    ]


def mask_invariance(
    case: Case, numbers_M: NDArray[np.int64], features_MD: Tensor, *, grid: int, fill: str
) -> dict[str, tuple[Tensor, float]]:
    """Mask views of images and compare their features with those of the unmasked views.

    Returns:
        By the kind of patches that may be masked (foreground, background, random) and the share of
        them that is: the cosine of f(x) and f(masked x) of each image that has such patches, and
        the share of all patches that is masked (at equal shares kinds can be compared).
    """
    extractor, size = case.extractor, case.extractor.view_size
    cosines: dict[str, list[Tensor]] = defaultdict(list)
    shares: dict[str, list[Tensor]] = defaultdict(list)
    own = iter(features_MD.split(extractor.batch_size))
    for batch in in_batches(numbers_M, extractor.batch_size):
        image01_BCSS, saliency_BGG = centre_views(extractor, case.val, batch, grid=grid)
        seeds_B = sample_seeds(case.config.seed, 0, batch)
        noise_seeds_B = torch_seeds(seeds_B).to(extractor.device)
        noise = partial(sample_noise, noise_seeds_B, view=QUERY, size=(3, size, size))
        unmasked = UnmaskedView(extractor.prepare(image01_BCSS), image01_BCSS, noise)
        own_BD = next(own)
        for kind, stratum_BN in _kinds(len(batch), grid, saliency_BGG):
            there_B = stratum_BN.any(dim=1)  # an image without background says nothing of it
            for ratio in case.config.diagnostics.ratios:
                mask_B1N = _mask(seeds_B, stratum_BN, ratio, grid=grid, size=size)
                pixels = patches_to_pixels(mask_B1N, size).to(extractor.device)
                seen_BD = extractor.forward(FILLS[fill].apply(unmasked, pixels)).float().cpu()
                cosine_B = F.cosine_similarity(seen_BD, own_BD, dim=1)
                cosines[f"{kind} {ratio:g}"].append(cosine_B[there_B])
                shares[f"{kind} {ratio:g}"].append(mask_B1N.float().mean(dim=(1, 2))[there_B])
    return {
        variant: (torch.cat(parts), float(torch.cat(shares[variant]).mean()))
        for variant, parts in cosines.items()
        if any(len(part) for part in parts)
    }


def fill_of(encoder: NamedEncoder) -> str:
    """The fill that a run used, as far as its export tells."""
    config = encoder.info.provenance.get("config")
    name = config.get("fill") if isinstance(config, dict) else None
    if name in FILLS:
        return str(name)
    return "mean" if encoder.info.preprocessing.high_pass is None else "high_pass"


def _kinds(size: int, grid: int, saliency_BGG: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """Kinds of masks, each with the patches that may be masked, bool [B, N]."""
    if saliency_BGG is not None:
        object_BN = foreground(saliency_BGG).flatten(1)
        yield "foreground", object_BN
        yield "background", ~object_BN
    yield "random", torch.ones(size, grid**2, dtype=torch.bool)


def _mask(
    seeds_B: NDArray[np.uint64], stratum_BN: Tensor, ratio: float, *, grid: int, size: int
) -> Tensor:
    """Masked patches, bool [B, 1, N]: a share of the stratum, drawn uniformly."""
    draws = draw_masks(
        seeds_B,
        view=view_number(QUERY),
        ratio=(ratio, ratio),
        grid=grid,
        view_size=size,
        box_side=1,
    )
    nothing_BN = torch.zeros_like(stratum_BN)
    return choose_patches(draws.scores_BCN[:, :1], (stratum_BN, nothing_BN), draws.ratio_B)
