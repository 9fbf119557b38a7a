"""What the features of a frozen backbone are like, beside how well they classify.

Invariance to masks (cosine of f(x) and f(masked x) over the masked share of foreground, background
or all patches), the same cosine of single cells of the feature map by their distance to the nearest
masked one, alignment and uniformity, effective rank. None of them needs labels.

Shapes: B batch, G grid side, N = G * G patches, M images that are looked at, D features.
"""

import math
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

from pipeline.core.errors import check
from pipeline.core.progress import say
from pipeline.saliency.foreground import foreground
from training.core.distributed import rank
from training.evaluate.case import Case
from training.evaluate.encoders import NamedEncoder
from training.evaluate.features import in_batches
from training.evaluate.intervals import mean_interval, percentile_interval, t_quantile
from training.evaluate.labelled import evenly_chosen
from training.evaluate.local_curve import cosines_by_distance, feature_map
from training.evaluate.results import Result
from training.randomness.draws import QUERY, sample_seeds, torch_seeds, view_number
from training.views.fills import FILLS, UnmaskedView, sample_noise
from training.views.maskers import draw_masks
from training.views.patches import choose_patches, patches_to_pixels

UNIFORMITY_SCALE = 2.0
"""t of the Gaussian potential, as in the paper."""
PAIR_RESAMPLES = 2_000
"""Of a figure of pairs of images: each takes a product of matrices."""
Estimate = tuple[float, tuple[float, float] | None]
"""A figure and its interval of 95 %, if there is one."""
GROUPS = 20
"""That are left out in turn by the jackknife."""


def diagnostics(case: Case) -> list[Result]:
    """The protocol `diagnostics`; every rank computes all of it.

    Masks of foreground and background need saliency: without it their figures are left out.

    Raises:
        InputError: fewer than two images, a grid that does not divide the view.
    """
    config, seed, images = case.config.diagnostics, case.config.seed, case.val
    if images.saliency_source is None and rank() == 0:
        say(f"diagnostics: {images.root} has no saliency: random patches alone are masked")
    grid = config.grid_of(case.encoder.view_size)
    fill = config.fill or fill_of(case.encoder)
    chosen_M = evenly_chosen(images.num_images, config.max_images)
    features_MD = case.features_val[0].cpu()[torch.from_numpy(chosen_M)]
    with torch.no_grad():
        views = case.encoder.two_views(images, chosen_M, seed=seed)
        cosines, local = mask_invariance(case, chosen_M, features_MD, grid=grid, fill=fill)

    apart_M = alignment(*views).double().numpy()
    even = uniformity(features_MD), uniformity_interval(features_MD, seed=seed)
    spread = effective_rank(features_MD), effective_rank_interval(features_MD, seed=seed)
    found: list[tuple[str, str, Estimate, dict[str, Any]]] = [
        ("alignment", "", (float(apart_M.mean()), mean_interval(apart_M, seed=seed)), {}),
        ("uniformity", "", even, {}),
        ("effective_rank", "", spread, {"feature_dim": features_MD.shape[1]}),
    ]
    about = {"fill": fill, "saliency": images.saliency_source}
    for variant, (cosine_I, masked_share) in cosines.items():
        values = cosine_I.numpy()
        cosine = float(values.mean()), mean_interval(values, seed=seed)
        found.append(("cosine", variant, cosine, {"masked_share_of_view": masked_share} | about))
    for distance, means in sorted(local.items()):
        cosine = float(np.mean(means)), mean_interval(means, seed=seed)
        masked = {"fill": fill, "masked_ratio": min(config.ratios)}
        found.append(("cosine", f"{distance} cells from a mask", cosine, masked))
    return [
        case.result(
            "diagnostics",
            name,
            figure,
            interval=interval,
            variant=variant,
            settings=asdict(config) | more,
        )
        for name, variant, (figure, interval), more in found
    ]


def mask_invariance(
    case: Case, numbers_M: NDArray[np.int64], features_MD: Tensor, *, grid: int, fill: str
) -> tuple[dict[str, tuple[Tensor, float]], dict[int, list[float]]]:
    """Mask views of images and compare their features with those of the unmasked views.

    Returns:
        By the kind of patches that may be masked (foreground, background, random) and the share of
        them that is: the cosine of f(x) and f(masked x) of each image that has such patches, and
        the share of all patches that is masked (at equal shares kinds can be compared). And
        `cosines_by_distance` under random masks of the smallest share; empty without feature map.
    """
    extractor, size = case.encoder, case.encoder.view_size
    cosines: dict[str, list[Tensor]] = defaultdict(list)
    shares: dict[str, list[Tensor]] = defaultdict(list)
    local: dict[int, list[float]] = defaultdict(list)
    least = f"random {min(case.config.diagnostics.ratios):g}"
    own = features_MD.split(extractor.batch_size)
    for batch, own_BD in zip(in_batches(numbers_M, extractor.batch_size), own, strict=True):
        image01_BCSS, saliency_BGG = extractor.centre_views(case.val, batch, grid=grid)
        seeds_B = sample_seeds(case.config.seed, 0, batch)
        noise_seeds_B = torch_seeds(seeds_B).to(extractor.device)
        channels = image01_BCSS.shape[1]
        noise = partial(sample_noise, noise_seeds_B, view=QUERY, size=(channels, size, size))
        unmasked = UnmaskedView(
            extractor.prepare(image01_BCSS), image01_BCSS, noise, extractor.info.normalisation
        )
        for kind, stratum_BN in _kinds(len(batch), grid, saliency_BGG):
            there_B = stratum_BN.any(dim=1)  # an image without background says nothing of it
            for ratio in case.config.diagnostics.ratios:
                mask_B1N = _mask(seeds_B, stratum_BN, ratio, grid=grid, size=size)
                pixels = patches_to_pixels(mask_B1N, size).to(extractor.device)
                seen_BCSS = FILLS[fill].apply(unmasked, pixels)
                seen_BD = extractor.forward_prepared(seen_BCSS).float().cpu()
                if least == f"{kind} {ratio:g}":
                    maps = [
                        feature_map(extractor.network, partial(extractor.forward_prepared, one))
                        for one in (unmasked.prepared_BCHW, seen_BCSS)
                    ]
                    if maps[0] is not None and maps[1] is not None:
                        found = cosines_by_distance(maps[0], maps[1], pixels.cpu())
                        for distance, means in found.items():
                            local[distance] += means
                cosine_B = F.cosine_similarity(seen_BD, own_BD, dim=1)
                cosines[f"{kind} {ratio:g}"].append(cosine_B[there_B])
                shares[f"{kind} {ratio:g}"].append(mask_B1N.float().mean(dim=(1, 2))[there_B])
    whole = {
        variant: (torch.cat(parts), float(torch.cat(shares[variant]).mean()))
        for variant, parts in cosines.items()
        if any(len(part) for part in parts)
    }
    return whole, local


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
    view, ratios = view_number(QUERY), (ratio, ratio)
    draws = draw_masks(seeds_B, view=view, ratio=ratios, grid=grid, view_size=size, box_side=1)
    strata = (stratum_BN, torch.zeros_like(stratum_BN))
    return choose_patches(draws.scores_BCN[:, :1], strata, draws.ratio_B)


def alignment(first_MD: Tensor, second_MD: Tensor) -> Tensor:
    """Squared distance of unit features of two views of each image, [M]: 0 is perfect, 2 chance.

    The mean is Wang and Isola's alignment, arXiv 2005.10242, section 4.1, with alpha = 2.
    """
    first, second = F.normalize(first_MD, dim=1), F.normalize(second_MD, dim=1)
    return (first - second).square().sum(dim=1)


def uniformity(features_MD: Tensor) -> float:
    """Log of the mean of exp(-2 ||u - v||^2) over pairs of unit features; lower is more even.

    Wang and Isola, arXiv 2005.10242, section 4.1, with t = 2: 0 where all features are one.

    Raises:
        InputError: fewer than two images.
    """
    check(len(features_MD) >= 2, f"uniformity of {len(features_MD)} image: wanted 2 or more")
    distances = torch.pdist(F.normalize(features_MD.double(), dim=1))
    return float(torch.exp(-UNIFORMITY_SCALE * distances.square()).mean().log())


def uniformity_interval(features_MD: Tensor, *, seed: int) -> tuple[float, float]:
    """The percentile bootstrap's 95 % interval of `uniformity`.

    Pairs of an image with itself, which resampling makes, do not count.
    """
    unit_MD = F.normalize(features_MD.double(), dim=1)
    potential_MM = torch.exp(-UNIFORMITY_SCALE * (2 - 2 * unit_MD @ unit_MD.T)).fill_diagonal_(0)
    num = len(unit_MD)
    drawn = np.random.default_rng(seed).multinomial(num, [1 / num] * num, size=PAIR_RESAMPLES)
    counts_RM = torch.from_numpy(drawn).to(unit_MD)
    total_R = (counts_RM @ potential_MM).mul_(counts_RM).sum(dim=1)
    pairs_R = counts_RM.sum(dim=1).square() - counts_RM.square().sum(dim=1)
    # No two different images in a resample of two: possible, and no figure.
    found = pairs_R > 0
    return percentile_interval((total_R[found] / pairs_R[found]).log().cpu().numpy())


def effective_rank(features_MD: Tensor) -> float:
    """Exp of the entropy of the covariance's eigenvalues, as shares of their sum: 1 to D.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007, on
    the eigenvalues of the covariance. 0 where the features do not vary at all.
    """
    centred_MD = features_MD.double() - features_MD.double().mean(dim=0)
    values = torch.linalg.svdvals(centred_MD).square()
    if float(values.sum()) <= 0:
        return 0.0
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def effective_rank_interval(features_MD: Tensor, *, seed: int) -> tuple[float, float] | None:
    """The 95 % interval of `effective_rank` by the jackknife over groups of images.

    Not by the bootstrap: a resample has fewer different images, and so a lower rank. None for fewer
    images than groups.
    """
    if len(features_MD) < GROUPS:
        return None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features_MD)))
    groups = order.tensor_split(GROUPS)
    left_out = [torch.cat(groups[:i] + groups[i + 1 :]) for i in range(GROUPS)]
    ranks = np.array([effective_rank(features_MD[rows]) for rows in left_out])
    reach = t_quantile(GROUPS - 1) * math.sqrt(GROUPS - 1) * float(ranks.std())
    figure = effective_rank(features_MD)
    return figure - reach, figure + reach
