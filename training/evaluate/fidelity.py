"""How well stored maps, warped with a view, agree with maps computed on the view itself.

The localiser sees the coloured, unfiltered view, as in the paper.

Shapes: B views, S side of a view, G grid side, N = G * G patches, H W pixels of an image.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.saliency.foreground import Rule, foreground
from training.evaluate.calibrate import hashed_subset
from training.evaluate.labelled import StoredImages
from training.randomness.draws import KEY, QUERY, sample_seeds, view_number
from training.views.colours import augment_colours, draw_colours
from training.views.crops import Crops, cut_crops, pool_saliency
from training.views.settings import AugmentConfig, ViewConfig

Image = NDArray[np.uint8]
Grids = NDArray[np.bool_]
IMAGES_AT_ONCE = 64
NORMAL_97_5 = 1.96


@dataclass(frozen=True)
class CutViews:
    """One random crop of every image: its geometry, and how two draws of colours look."""

    crops: Crops
    images01_B3SS: Tensor
    recoloured01_B3SS: Tensor


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Agreement of two foregrounds over many views.

    Attributes:
        iou: mean over the views of intersection over union.
        interval: of it, 95 %: mean over the images +- 1.96 standard errors.
        chance: IoU expected where as many patches of either foreground lie at random.
        kappa: Cohen's, over the patches of all views: 0 is chance, 1 full agreement.
        stored_share: of the patches that are foreground by the stored maps.
        own_share: by the maps on the views.
        num_images: images.
        num_views: views.
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
    images: StoredImages,
    on_view: Callable[[Tensor, int], NDArray[np.float32]],
    *,
    views: ViewConfig,
    rule: Rule,
    num_images: int,
    num_crops: int,
) -> Fidelity:
    """Compare the foregrounds of random crops, drawn and coloured as training's query views are.

    Args:
        images: with their stored maps; at most `num_images` are taken (`hashed_subset`).
        on_view: views in [0, 1], [B, 3, S, S], and G -> saliency per patch, [B, G, G].
        views: size, grid and crops.
        rule: of the foreground.
        num_images: 2 or more.
        num_crops: of every image, 1 or more.

    Raises:
        InputError: fewer than two images.
    """
    numbers = hashed_subset(images.shard_sizes, num_images).tolist()
    if len(numbers) < 2:
        raise InputError(f"{images.root} holds {len(numbers)} images: wanted 2 or more")
    stored: list[Grids] = []
    own: list[Grids] = []
    parts = [numbers[i : i + IMAGES_AT_ONCE] for i in range(0, len(numbers), IMAGES_AT_ONCE)]
    for part in track(parts, "fidelity", len(numbers), "images", size=len):
        pictures = [images.image(number) for number in part]
        maps_BPP = np.stack([images.saliency(number) for number in part])
        for crop in range(num_crops):
            cut_B = cut(pictures, views, crop, numbers=np.array(part))
            pooled = pool_saliency(maps_BPP, *sides(pictures), cut_B.crops, views.grid)
            looked = on_view(cut_B.images01_B3SS, views.grid)
            for found, values in ((stored, pooled), (own, looked)):
                found.append(foreground(torch.from_numpy(values), rule=rule).numpy())
    image_of_view = np.concatenate([np.tile(part, num_crops) for part in parts])
    return agreement_of(np.concatenate(stored), np.concatenate(own), image_of_view)


def agreement_of(stored_BGG: Grids, own_BGG: Grids, image_of_view_B: NDArray[np.int64]) -> Fidelity:
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
    """Expected IoU of `first` and `second` of `num` patches, both chosen at random.

    The intersection is hypergeometric.
    """
    ways = math.comb(num, second)
    return sum(
        math.comb(first, both)
        * math.comb(num - first, second - both)
        / ways
        * (both / (first + second - both))
        for both in range(max(0, first + second - num), min(first, second) + 1)
    )


def cut(
    images: Sequence[Image],
    config: ViewConfig,
    epoch: int,
    *,
    numbers: NDArray[np.int64] | None = None,
) -> CutViews:
    """Draw, cut and colour a view of every image, as training does for its query view.

    Args:
        images: uint8 RGB [H, W, 3] each.
        config: of the views.
        epoch: of the draws.
        numbers: of the images, for the draws; None: 0, 1, ...
    """
    seeds_B = sample_seeds(0, epoch, np.arange(len(images)) if numbers is None else numbers)
    crop = cut_crops(images, seeds_B, names=(QUERY,), config=config)
    views01_B3SS = torch.from_numpy(crop.pixels_RSS3).permute(0, 3, 1, 2).float() / 255
    coloured = [
        augment_colours(
            views01_B3SS,
            draw_colours(
                seeds_B, view=view_number(name), config=AugmentConfig(), view_size=config.size
            ),
        )
        for name in (QUERY, KEY)
    ]
    return CutViews(crop.boxes, *coloured)


def sides(images: Sequence[Image]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Heights and widths."""
    shapes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    return shapes[:, 0], shapes[:, 1]
