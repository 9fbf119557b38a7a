"""The paper's linear probe: a classifier trained by SGD on augmented views of a frozen backbone.

arXiv 2309.12757, section 4, after MoCo (arXiv 1911.05722): learning rate 30, momentum 0.9, no
weight decay, batch 256, 100 epochs, a tenth of the rate from 60 and from 80 on; random resized crop
and flip. High-pass filtered views stay so, at training and at test.

Shapes: B this rank's share of a batch, M training images, V validation images, D features.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.core.distributed import data_parallel
from training.evaluate.extract import Features, Prepare
from training.evaluate.labelled import LabelledImages
from training.evaluate.training_views import training_batches

DROPS = (0.6, 0.8)
"""Where the rate falls to a tenth, as shares of the training: epochs 60 and 80 of 100."""


@dataclass(frozen=True, kw_only=True)
class PaperProbeConfig:
    """The paper's settings.

    Attributes:
        epochs: passes over the training images, 1 or more; the rate falls at 60 and 80 % of them.
        batch_size: images of a step, all workers together, 1 or more.
        lr: learning rate, above 0.
        momentum: of SGD, in [0, 1).
    """

    epochs: int = 100
    batch_size: int = 256
    lr: float = 30.0
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or not self.lr > 0 or not 0 <= self.momentum < 1:
            raise InputError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, lr {self.lr}, momentum "
                f"{self.momentum}: wanted 1 or more, lr above 0 and momentum in [0, 1)"
            )


def rate_at(step: int, total_steps: int, lr: float) -> float:
    """The learning rate of a step: a tenth from each drop on."""
    return lr * 0.1 ** sum(step >= round(drop * total_steps) for drop in DROPS)


def paper_probe(
    network: nn.Module,
    images: LabelledImages,
    val: Features,
    config: PaperProbeConfig,
    *,
    prepare: Prepare,
    view_size: int,
    device: torch.device,
    seed: int,
    num_threads: int,
    autocast_dtype: torch.dtype | None = None,
) -> Tensor:
    """Train the classifier and classify; called by every rank.

    Args:
        network: frozen, in evaluation mode, on `device`: [B, 3, S, S] -> [B, D].
        images: to train on.
        val: features and labels of the test-time views of the validation images.
        config: settings.
        prepare: views in [0, 1] to what the network wants.
        view_size: S.
        device: that computes.
        seed: of order and crops.
        num_threads: that decode.
        autocast_dtype: of the network's forward; none: in the weights' own.

    Returns:
        Predicted classes, int64 [V], the same on every rank.

    Raises:
        InputError: ranks that do not divide the batch, a loss that is not finite.
    """
    features_VD = val[0].to(device)
    classifier = nn.Linear(features_VD.shape[1], len(images.class_names), device=device)
    # MoCo's probe draws its first weights from N(0, 0.01^2): zeros are the same but for the noise.
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    train = data_parallel(classifier, device)
    optimiser = torch.optim.SGD(classifier.parameters(), lr=config.lr, momentum=config.momentum)
    steps = math.ceil(config.epochs * images.num_images / config.batch_size)
    batches = training_batches(
        images,
        torch.arange(images.num_images).numpy(),
        steps=steps,
        batch_size=config.batch_size,
        view_size=view_size,
        seed=seed,
        num_threads=num_threads,
    )
    shown = track(batches, "linear_paper", steps, "steps")
    for step, (views_BCHW, labels_B) in enumerate(shown):
        with torch.no_grad():
            x_BCHW = prepare(views_BCHW.to(device, non_blocking=True).float().div_(255))
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                features_BD = network(x_BCHW)
        loss = F.cross_entropy(train(features_BD.float()), labels_B.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps, config.lr)
        optimiser.step()
    with torch.no_grad():
        logits_VK: Tensor = classifier(features_VD)
    if not bool(torch.isfinite(logits_VK).all()):
        raise InputError(f"the linear probe diverged: lower linear-paper.lr ({config.lr:g})")
    return logits_VK.argmax(dim=1)
