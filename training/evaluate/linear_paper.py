"""The paper's linear probe: a classifier trained by SGD on augmented views of a frozen backbone.

arXiv 2309.12757, section 4, after MoCo (arXiv 1911.05722): learning rate 30, momentum 0.9, no
weight decay, batch 256, 100 epochs, a tenth of the rate from 60 and from 80 on; random resized crop
and flip. High-pass filtered views stay so, at training and at test.

Shapes: B this rank's share of a batch, V validation images, D features, K classes.
"""

import math
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from training.core.distributed import data_parallel
from training.evaluate.case import Case
from training.evaluate.results import Result
from training.evaluate.sgd import train_classifier, training_batches, zero_classifier

DROPS = (0.6, 0.8)
"""Where the rate falls to a tenth, as shares of the training: epochs 60 and 80 of 100."""


def linear_paper(case: Case) -> list[Result]:
    """The protocol `linear_paper`.

    Raises:
        InputError: ranks that do not divide the batch, a loss that is not finite.
    """
    config, extractor = case.config.linear_paper, case.extractor
    features_VD = case.features_val[0].to(extractor.device)
    # MoCo's probe draws its first weights from N(0, 0.01^2): zeros are the same but for the noise.
    classifier = zero_classifier(features_VD.shape[1], case.num_classes, extractor.device)
    trained = data_parallel(classifier, extractor.device)

    def logits(views_BCHW: Tensor) -> Tensor:
        with torch.no_grad():
            features_BD = extractor(views_BCHW).float()
        logits_BK: Tensor = trained(features_BD)
        return logits_BK

    steps = math.ceil(config.epochs * case.train.num_images / config.batch_size)
    train_classifier(
        logits,
        torch.optim.SGD(classifier.parameters(), lr=config.lr, momentum=config.momentum),
        partial(rate_factor, total_steps=steps),
        training_batches(
            case,
            np.arange(case.train.num_images),
            steps=steps,
            batch_size=config.batch_size,
            work="linear_paper",
        ),
    )
    with torch.no_grad():
        logits_VK: Tensor = classifier(features_VD)
    if not bool(torch.isfinite(logits_VK).all()):
        raise InputError(f"the linear probe diverged: lower linear-paper.lr ({config.lr:g})")
    return [case.accuracy("linear_paper", logits_VK.argmax(dim=1), settings=asdict(config))]


def rate_factor(step: int, total_steps: int) -> float:
    """A tenth from each drop on, as a factor of the learning rate."""
    return 0.1 ** sum(step >= round(drop * total_steps) for drop in DROPS)
