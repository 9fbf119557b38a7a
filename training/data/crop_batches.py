"""All crops of some images, with their saliency and the draws of their colours.

Shapes: B images, R = B rows for each of some crops, P side of a stored saliency map.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.randomness.draws import view_number
from training.views.colours import draw_colours
from training.views.crops import cut_crops, pool_saliency
from training.views.host_batch import CropBatch
from training.views.settings import AugmentConfig, ViewConfig
from training.views.spec import Crop


def crop_batches(
    images: Sequence[NDArray[np.uint8]],
    maps: Sequence[NDArray[np.uint8]],
    seeds_B: NDArray[np.uint64],
    crops: Sequence[Crop],
    augment: AugmentConfig,
) -> dict[str, CropBatch]:
    """Cut all crops of some images.

    Args:
        images: decoded, RGB uint8 [H, W, 3].
        maps: the images' stored saliency, [B, P, P]; then that of the next images, where it steers
            masks.
        seeds_B: the samples' seeds (`draws.sample_seeds`).
        crops: which.
        augment: ranges of the colours.

    Returns:
        By name.
    """
    cut: dict[str, CropBatch] = {}
    kinds: dict[ViewConfig, list[str]] = {}
    for crop in crops:  # crops of a kind are cut at once, row after row: fewer calls
        kinds.setdefault(crop.cut, []).append(crop.name)
    for kind, names in kinds.items():
        found = cut_crops(images, seeds_B, names=names, config=kind)
        pooled = [
            torch.from_numpy(
                pool_saliency(
                    np.tile(maps_BPP, (len(names), 1, 1)),
                    found.heights_R,
                    found.widths_R,
                    found.boxes,
                    kind.grid,
                )
            )
            for maps_BPP in maps
        ]
        whole = CropBatch(
            torch.from_numpy(found.pixels_RSS3).permute(0, 3, 1, 2),
            pooled[0],
            pooled[1] if len(pooled) > 1 else None,
            draw_colours(
                np.tile(seeds_B, len(names)),
                view=np.repeat([view_number(name) for name in names], len(images)),
                config=augment,
                view_size=kind.size,
            ),
        )
        for number, name in enumerate(names):
            cut[name] = whole.rows(slice(number * len(images), (number + 1) * len(images)))
    return cut
