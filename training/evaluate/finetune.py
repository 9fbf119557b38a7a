"""Fine-tuning on a share of the labels: the whole network, and a new classifier.

The shares are class-balanced, and a smaller one is part of a larger one of the same seed and draw.
Neither the paper nor its code fine-tunes: the settings are ours.

Shapes: M training images, V validation images, K classes.
"""

import copy
import math
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import InputError
from training.core.distributed import average_buffers, data_parallel, world_size
from training.core.schedules import cosine_lr
from training.encoders.encoder import group_batch_norm
from training.evaluate.case import Case
from training.evaluate.results import Result
from training.evaluate.sgd import train_classifier, training_batches, zero_classifier
from training.randomness.draws import sample_seeds


def finetune(case: Case) -> list[Result]:
    """The protocol `finetune`: every share of the labels is drawn several times.

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
    config, extractor = case.config.finetune, case.extractor
    if config.batch_size % (world_size() * config.batch_norm_group):
        raise InputError(
            f"finetune.batch_size {config.batch_size} over {world_size()} ranks does not hold "
            f"whole batch-norm groups of {config.batch_norm_group}: choose a multiple of both"
        )
    feature_dim = case.encoder.info.feature_dim
    classifier = zero_classifier(feature_dim, case.num_classes, extractor.device)
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.config.seed)
        train_classifier(
            replace(extractor, network=data_parallel(whole, extractor.device)),
            optimiser,
            partial(cosine_lr, base_lr=1.0, total_steps=steps, warmup_steps=0),
            training_batches(
                case,
                chosen,
                steps=steps,
                batch_size=config.batch_size,
                work=f"finetune on {len(chosen)} images",
            ),
        )
    average_buffers(whole)
    logits_VK, _ = replace(extractor, network=whole.eval()).features(case.val)
    return logits_VK
