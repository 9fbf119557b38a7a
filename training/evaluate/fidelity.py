"""How well stored maps, warped with a view, agree with maps computed on the view itself.

The localiser sees the coloured, unfiltered view, as in the paper.

Shapes: B views, S side of a view, G grid side, N = G * G patches.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import hypergeom
from torch import Tensor

from pipeline.core.errors import check
from pipeline.core.progress import track
from pipeline.saliency.foreground import Rule, foreground
from training.evaluate.features import coloured
from training.evaluate.labelled import LabelledImages, hashed_subset
from training.randomness.draws import QUERY, sample_seeds
from training.views.crops import cut_crops, pool_saliency
from training.views.settings import ViewConfig

IMAGES_AT_ONCE = 64
NORMAL_97_5 = 1.96


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of two foregrounds over many views.

    Attributes:
        iou: mean over the views.
        interval: of it, 95 %: mean over the images +- 1.96 standard errors.
        chance: IoU expected where as many patches of either foreground lie at random.
        kappa: Cohen's, over the patches of all views: 0 is chance, 1 full agreement.
        stored_share: of the patches that are foreground by the stored maps.
        own_share: by the maps on the views.
    """

    iou: float
    interval: tuple[float, float]
    chance: float
    kappa: float
    stored_share: float
    own_share: float
    num_images: int
    num_views: int

    def lines(self) -> Iterator[str]:
        """For people."""
        low, high = self.interval
        yield (
            f"{self.num_views} views of {self.num_images} images; foreground by the stored maps "
            f"{self.stored_share:.0%} of the patches, on the views {self.own_share:.0%}"
        )
        yield f"IoU        {self.iou:.3f} ({low:.3f} to {high:.3f}; chance {self.chance:.3f})"
        yield f"kappa      {self.kappa:.3f} (chance 0)"


def measure_fidelity(
    images: LabelledImages,
    on_view: Callable[[Tensor, int], NDArray[np.float32]],
    *,
    views: ViewConfig,
    rule: Rule,
    num_images: int,
    num_crops: int,
) -> Fidelity:
    """Compare the foregrounds of random crops, drawn and coloured as training's query views are.

    `on_view` takes views in [0, 1], [B, 3, S, S], and G, and gives saliency per patch, [B, G, G].
    At most `num_images` are taken (`hashed_subset`); InputError for fewer than two.
    """
    numbers = hashed_subset(images.shard_sizes, num_images)
    check(len(numbers) >= 2, f"{images.root} holds {len(numbers)} images: wanted 2 or more")
    stored, own, image_of_view = [], [], []
    parts = [numbers[i : i + IMAGES_AT_ONCE] for i in range(0, len(numbers), IMAGES_AT_ONCE)]
    for part in track(parts, "fidelity", len(numbers), "images", size=len):
        pictures = [images.image(int(number)) for number in part]
        maps_BPP = np.stack([images.saliency(int(number)) for number in part])
        for crop in range(num_crops):
            seeds_B = sample_seeds(0, crop, part)
            pixels_BSS3, boxes = cut_crops(pictures, seeds_B, names=(QUERY,), config=views)
            pooled = pool_saliency(maps_BPP, boxes, views.grid)
            looked = on_view(coloured(pixels_BSS3, seeds_B, QUERY), views.grid)
            stored.append(foreground(torch.from_numpy(pooled), rule=rule).numpy())
            own.append(foreground(torch.from_numpy(looked), rule=rule).numpy())
            image_of_view.append(part)
    return agreement_of(np.concatenate(stored), np.concatenate(own), np.concatenate(image_of_view))


def agreement_of(
    stored_BGG: NDArray[np.bool_], own_BGG: NDArray[np.bool_], image_of_view_B: NDArray[np.int64]
) -> Fidelity:
    """Agreement of the foregrounds of views; each has one patch or more."""
    stored, own = stored_BGG.reshape(len(stored_BGG), -1), own_BGG.reshape(len(own_BGG), -1)
    iou_B = (stored & own).sum(1) / (stored | own).sum(1)
    images, which = np.unique(image_of_view_B, return_inverse=True)
    by_image = np.bincount(which, weights=iou_B) / np.bincount(which)
    error = NORMAL_97_5 * float(by_image.std(ddof=1)) / math.sqrt(len(images))
    share, own_share = float(stored.mean()), float(own.mean())
    by_chance = share * own_share + (1 - share) * (1 - own_share)
    equal = float((stored == own).mean())
    pairs = zip(stored.sum(1).tolist(), own.sum(1).tolist(), strict=True)
    return Fidelity(
        iou=float(iou_B.mean()),
        interval=(float(by_image.mean()) - error, float(by_image.mean()) + error),
        chance=float(np.mean([chance_iou(a, b, stored.shape[1]) for a, b in pairs])),
        kappa=(equal - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan,
        stored_share=share,
        own_share=own_share,
        num_images=len(images),
        num_views=len(stored),
    )


def chance_iou(first: int, second: int, num: int) -> float:
    """Expected IoU of `first` and `second` of `num` patches, both chosen at random."""
    both = np.arange(min(first, second) + 1)
    return float(hypergeom.pmf(both, num, first, second) @ (both / (first + second - both)))
