"""Augmented views for a classifier: random resized crop and flip, the same for any number of ranks.

Shapes: B this rank's share of a batch, S side of the view, M images that are used.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from training.core.distributed import rank, world_size
from training.evaluate.extract import view_batches
from training.evaluate.labelled import LabelledImages
from training.randomness.draws import QUERY, sample_seeds
from training.views.crops import cut_crops
from training.views.settings import ViewConfig

ORDER_DOMAIN = 0x50524F42
"""Keeps the order's hashes apart from those of the crops."""
CROP_SCALE = (0.08, 1.0)
"""torchvision's, which MoCo's linear probe uses."""


def training_batches(
    images: LabelledImages,
    chosen_M: NDArray[np.int64],
    *,
    steps: int,
    batch_size: int,
    view_size: int,
    seed: int,
    num_threads: int,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's share of every step's batch.

    The images come in one endless row of shuffled passes, cut into batches of one size: where a
    batch reaches over the end of a pass, it takes the first images of the next.

    Args:
        images: to choose from.
        chosen_M: numbers of the images that are used.
        steps: number of batches.
        batch_size: of all ranks together.
        view_size: S.
        seed: of the order and the crops.
        num_threads: that decode.

    Returns:
        Views uint8 [B, 3, S, S] and labels int64 [B], per step.

    Raises:
        InputError: ranks that do not divide the batch.
    """
    share, rest = divmod(batch_size, world_size())
    if rest or not share:
        raise InputError(
            f"a batch of {batch_size} cannot be split over {world_size()} ranks: choose a multiple"
        )
    views, labels = ViewConfig(size=view_size, grid=1, crop_scale=CROP_SCALE), images.labels()

    @lru_cache(maxsize=2)
    def order(turn: int) -> NDArray[np.int64]:
        seeds_M = sample_seeds(seed + ORDER_DOMAIN, turn, np.arange(len(chosen_M)))
        return chosen_M[np.argsort(seeds_M, kind="stable")]

    def at(place: int) -> tuple[int, int]:
        turn, position = divmod(place, len(chosen_M))
        return turn, int(order(turn)[position])

    def load(item: tuple[int, int]) -> tuple[NDArray[np.uint8], int]:
        turn, number = item
        image = images.image(number)
        seeds_1 = sample_seeds(seed, turn, np.array([number]))
        cut = cut_crops([image], seeds_1, names=(QUERY,), config=views)
        return cut.pixels_RSS3[0], int(labels[number])

    starts = (step * batch_size + rank() * share for step in range(steps))
    batches = ([at(place) for place in range(start, start + share)] for start in starts)
    return view_batches(batches, load, num_threads=num_threads)
