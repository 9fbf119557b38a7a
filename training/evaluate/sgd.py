"""Protocols that train a classifier by SGD on augmented views: `linear_paper` and `finetune`.

Orders, crops and figures are the same for any number of ranks.

Shapes: B this rank's share of a batch, M training images, V validation images, K classes.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import check
from pipeline.core.progress import track
from training.core.distributed import average_buffers, data_parallel, rank, world_size
from training.core.schedules import cosine_lr
from training.encoders.encoder import group_batch_norm
from training.evaluate.case import Case
from training.evaluate.features import Batch, View, loaded_batches
from training.evaluate.results import Result
from training.randomness.draws import QUERY, sample_seeds
from training.views.crops import cut_crops
from training.views.settings import ViewConfig

ORDER_DOMAIN = 0x50524F42
"""Keeps the order's hashes apart from those of the crops."""
CROP_SCALE = (0.08, 1.0)
"""torchvision's, which MoCo's linear probe uses."""
DROPS = (0.6, 0.8)
"""Where the paper's rate falls to a tenth, as shares of the training: epochs 60 and 80 of 100."""


def linear_paper(case: Case) -> list[Result]:
    """The paper's linear probe: a classifier on augmented views of a frozen backbone.

    arXiv 2309.12757, section 4, after MoCo (arXiv 1911.05722): learning rate 30, momentum 0.9, no
    weight decay, batch 256, 100 epochs, a tenth of the rate from 60 and from 80 on; random resized
    crop and flip. High-pass filtered views stay so, at training and at test.

    Raises:
        InputError: ranks that do not divide the batch, a loss that is not finite.
    """
    config, extractor = case.config.linear_paper, case.encoder
    features_VD = case.features_val[0].to(extractor.device)
    classifier = _zero_classifier(features_VD.shape[1], case)
    trained = data_parallel(classifier, extractor.device)

    def logits(views_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            features_BD = extractor(views_BCHW).float()
        logits_BK: Tensor = trained(features_BD)
        return logits_BK

    every = np.arange(case.train.num_images)
    steps = math.ceil(config.epochs * len(every) / config.batch_size)
    _train(
        logits,
        torch.optim.SGD(classifier.parameters(), lr=config.lr, momentum=config.momentum),
        partial(rate_factor, total_steps=steps),
        training_batches(case, every, steps, config.batch_size, work="linear_paper"),
    )
    with torch.no_grad():
        logits_VK: Tensor = classifier(features_VD)
    check(
        bool(torch.isfinite(logits_VK).all()),
        f"the linear probe diverged: lower linear-paper.lr ({config.lr:g})",
    )
    return [case.accuracy("linear_paper", logits_VK.argmax(dim=1), settings=asdict(config))]


def rate_factor(step: int, total_steps: int) -> float:
    """A tenth from each drop on, as a factor of the learning rate."""
    return 0.1 ** sum(step >= round(drop * total_steps) for drop in DROPS)


def finetune(case: Case) -> list[Result]:
    """Fine-tuning of the whole network on shares of the labels, each drawn several times.

    The shares are class-balanced, and a smaller one is part of a larger one of the same seed and
    draw. Neither the paper nor its code fine-tunes: the settings are ours.

    Raises:
        InputError: ranks that do not divide the batch or its batch-norm groups.
    """
    config, results = case.config.finetune, []
    for share in config.shares:
        predicted = []
        for draw in range(1 if share == 1 else config.draws):
            chosen = balanced_subset(case.train.labels(), share, seed=case.config.seed, draw=draw)
            predicted.append(tuned_logits(case, chosen).argmax(dim=1))
        results.append(
            case.accuracy(
                "finetune",
                torch.stack(predicted),
                variant=f"{100 * share:g} %",
                num_train=len(chosen),
                settings=asdict(config) | {"share": share},
            )
        )
    return results


def balanced_subset(
    labels_M: NDArray[np.int64], share: float, *, seed: int, draw: int = 0
) -> NDArray[np.int64]:
    """Rising numbers of images of a share of the labels, the same number of every class.

    Every class has round(share * M / K) images, at least 1, or all it has. A share of 1 is all
    images, balanced or not.
    """
    numbers_M = np.arange(len(labels_M))
    if share == 1:
        return numbers_M
    classes = np.unique(labels_M)
    wanted = max(1, round(share * len(labels_M) / len(classes)))
    rows_M = numbers_M[np.argsort(sample_seeds(seed, draw, numbers_M), kind="stable")]
    parts = [rows_M[labels_M[rows_M] == label][:wanted] for label in classes]
    return np.sort(np.concatenate(parts))


def tuned_logits(case: Case, chosen: NDArray[np.int64]) -> Tensor:
    """Train a copy of the network with a classifier behind it on chosen training images.

    Returns:
        Logits of the validation images, [V, K], on every rank.
    """
    config, extractor = case.config.finetune, case.encoder
    check(
        config.batch_size % (world_size() * config.batch_norm_group) == 0,
        f"finetune.batch_size {config.batch_size} over {world_size()} ranks does not hold whole "
        f"batch-norm groups of {config.batch_norm_group}: choose a multiple of both",
    )
    classifier = _zero_classifier(case.encoder.info.feature_dim, case)
    whole = nn.Sequential(copy.deepcopy(extractor.network), classifier)
    group_batch_norm(whole, config.batch_norm_group).train()
    optimiser = torch.optim.SGD(
        [
            {"params": whole[0].parameters(), "lr": config.lr},
            {"params": classifier.parameters(), "lr": config.head_lr},
        ],
        momentum=0.9,
        weight_decay=config.weight_decay,
    )
    steps = max(config.min_steps, math.ceil(config.epochs * len(chosen) / config.batch_size))
    work = f"finetune on {len(chosen)} images"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.config.seed)
        _train(
            replace(extractor, network=data_parallel(whole, extractor.device)),
            optimiser,
            partial(cosine_lr, base_lr=1.0, total_steps=steps, warmup_steps=0),
            training_batches(case, chosen, steps, config.batch_size, work=work),
        )
    average_buffers(whole)
    logits_VK, _ = replace(extractor, network=whole.eval()).features(case.val)
    return logits_VK


def _zero_classifier(feature_dim: int, case: Case) -> nn.Linear:
    """A linear layer of zeros; draws nothing. MoCo's probe starts from N(0, 0.01^2)."""
    classifier: nn.Linear = nn.utils.skip_init(
        nn.Linear, feature_dim, case.num_classes, device=case.encoder.device
    )
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def _train(
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
    case: Case, chosen_M: NDArray[np.int64], steps: int, batch_size: int, *, work: str
) -> Iterator[Batch]:
    """This rank's share of every step's batch; reports progress.

    The chosen training images come in one endless row of shuffled passes, cut into batches of one
    size, that of all ranks together: where a batch reaches over the end of a pass, it takes the
    first images of the next. The seed decides order and crops.

    Raises:
        InputError: ranks that do not divide the batch.
    """
    ranks, images, seed = world_size(), case.train, case.config.seed
    check(
        batch_size % ranks == 0,
        f"a batch of {batch_size} cannot be split over {ranks} ranks: choose a multiple",
    )
    share = batch_size // ranks
    config = ViewConfig(size=case.encoder.view_size, grid=1, crop_scale=CROP_SCALE)
    labels = images.labels()

    @lru_cache(maxsize=2)
    def order(turn: int) -> NDArray[np.int64]:
        seeds_M = sample_seeds(seed + ORDER_DOMAIN, turn, np.arange(len(chosen_M)))
        return chosen_M[np.argsort(seeds_M, kind="stable")]

    def load(position: int) -> View:
        turn, place = divmod(position, len(chosen_M))
        number = int(order(turn)[place])
        seeds_1 = sample_seeds(seed, turn, np.array([number]))
        pixels, _ = cut_crops([images.image(number)], seeds_1, names=(QUERY,), config=config)
        return pixels[0], int(labels[number])

    starts = (step * batch_size + rank() * share for step in range(steps))
    batches = (range(start, start + share) for start in starts)
    loaded = loaded_batches(batches, load, num_threads=case.encoder.num_threads)
    return track(loaded, work, steps, "steps")
