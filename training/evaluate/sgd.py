"""Train a classifier by SGD on augmented views (random resized crop and flip).

Orders and crops are the same for any number of ranks.

Shapes: B this rank's share of a batch, S side of the view, M images that are used.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.core.distributed import rank, world_size
from training.evaluate.case import Case
from training.evaluate.features import Batch, View, loaded_batches
from training.randomness.draws import QUERY, sample_seeds
from training.views.crops import cut_crops
from training.views.settings import ViewConfig

ORDER_DOMAIN = 0x50524F42
"""Keeps the order's hashes apart from those of the crops."""
CROP_SCALE = (0.08, 1.0)
"""torchvision's, which MoCo's linear probe uses."""


def zero_classifier(feature_dim: int, num_classes: int, device: torch.device) -> nn.Linear:
    """A linear layer of zeros; draws nothing."""
    classifier: nn.Linear = nn.utils.skip_init(nn.Linear, feature_dim, num_classes, device=device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def train_classifier(
    logits: Callable[[Tensor], Tensor],
    optimiser: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    batches: Iterable[Batch],
) -> None:
    """Minimise the cross-entropy, one step per batch of this rank; called by every rank.

    `logits` takes uint8 views; `schedule` gives the factor of the learning rates by step.
    """
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, schedule)
    for views_BCHW, labels_B in batches:
        logits_BK = logits(views_BCHW).float()
        loss = F.cross_entropy(logits_BK, labels_B.to(logits_BK.device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        rates.step()


def training_batches(
    case: Case, chosen_M: NDArray[np.int64], *, steps: int, batch_size: int, work: str
) -> Iterator[Batch]:
    """This rank's share of every step's batch; reports progress.

    The chosen training images come in one endless row of shuffled passes, cut into batches of one
    size, that of all ranks together: where a batch reaches over the end of a pass, it takes the
    first images of the next. The seed decides order and crops.

    Raises:
        InputError: ranks that do not divide the batch.
    """
    share, rest = divmod(batch_size, world_size())
    if rest or not share:
        raise InputError(
            f"a batch of {batch_size} cannot be split over {world_size()} ranks: choose a multiple"
        )
    images, seed = case.train, case.config.seed
    config = ViewConfig(size=case.extractor.view_size, grid=1, crop_scale=CROP_SCALE)
    labels = images.labels()

    @lru_cache(maxsize=2)
    def order(turn: int) -> NDArray[np.int64]:
        seeds_M = sample_seeds(seed + ORDER_DOMAIN, turn, np.arange(len(chosen_M)))
        return chosen_M[np.argsort(seeds_M, kind="stable")]

    def at(place: int) -> tuple[int, int]:
        turn, position = divmod(place, len(chosen_M))
        return turn, int(order(turn)[position])

    def load(item: tuple[int, int]) -> View:
        turn, number = item
        seeds_1 = sample_seeds(seed, turn, np.array([number]))
        pixels, _ = cut_crops([images.image(number)], seeds_1, names=(QUERY,), config=config)
        return pixels[0], int(labels[number])

    starts = (step * batch_size + rank() * share for step in range(steps))
    batches = ([at(place) for place in range(start, start + share)] for start in starts)
    loaded = loaded_batches(batches, load, num_threads=case.extractor.num_threads)
    return track(loaded, work, steps, "steps")
