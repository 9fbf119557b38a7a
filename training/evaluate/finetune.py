"""Fine-tuning on a share of the labels: the whole network, and a new classifier.

The shares are class-balanced, and a smaller one is part of a larger one of the same seed and draw.
Neither the paper nor its code fine-tunes: the settings are ours.

Shapes: B this rank's share of a batch, M training images, K classes.
"""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from training.core.distributed import average_buffers, data_parallel, world_size
from training.core.schedules import cosine_lr
from training.encoders.encoder import group_batch_norm
from training.evaluate.extract import Prepare
from training.evaluate.labelled import LabelledImages
from training.evaluate.settings import FinetuneConfig
from training.evaluate.training_views import training_batches
from training.randomness.draws import sample_seeds


def balanced_subset(
    labels_M: NDArray[np.int64], share: float, *, seed: int, draw: int = 0
) -> NDArray[np.int64]:
    """Choose images of a share of the labels, the same number of every class.

    Args:
        labels_M: class of every image.
        share: in (0, 1]; 1: all images, balanced or not.
        seed: of the choices.
        draw: which of the choices, from 0 on.

    Returns:
        Rising numbers. Every class has round(share * M / K) images, at least 1, or all it has.
    """
    numbers_M = np.arange(len(labels_M))
    if share == 1:
        return numbers_M
    classes = np.unique(labels_M)
    wanted = max(1, round(share * len(labels_M) / len(classes)))
    rows_M = numbers_M[np.argsort(sample_seeds(seed, draw, numbers_M), kind="stable")]
    parts = [rows_M[labels_M[rows_M] == label][:wanted] for label in classes]
    return np.sort(np.concatenate(parts))


def finetuned(
    network: nn.Module,
    feature_dim: int,
    images: LabelledImages,
    chosen: NDArray[np.int64],
    config: FinetuneConfig,
    *,
    prepare: Prepare,
    view_size: int,
    device: torch.device,
    seed: int,
    num_threads: int,
    autocast_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Train a copy of the network with a classifier behind it; called by every rank.

    Args:
        network: to start from, on `device`: [B, 3, S, S] -> [B, D]; left as it is.
        feature_dim: D.
        images: that are trained on.
        chosen: their numbers.
        config: settings.
        prepare: views in [0, 1] to what the network wants.
        view_size: S.
        device: that computes.
        seed: of order, crops and whatever the network draws.
        num_threads: that decode.
        autocast_dtype: of the forward; none: in the weights' own.

    Returns:
        [B, 3, S, S] -> logits [B, K], in evaluation mode.

    Raises:
        InputError: ranks that do not divide the batch or its batch-norm groups.
    """
    if config.batch_size % (world_size() * config.batch_norm_group):
        raise InputError(
            f"finetune.batch_size {config.batch_size} over {world_size()} ranks does not hold "
            f"whole batch-norm groups of {config.batch_norm_group}: choose a multiple of both"
        )
    classifier = nn.Linear(feature_dim, len(images.class_names), device=device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    whole = nn.Sequential(copy.deepcopy(network), classifier)
    group_batch_norm(whole, config.batch_norm_group).train()
    train = data_parallel(whole, device)
    parts = [(whole[0], config.lr), (classifier, config.head_lr)]
    optimiser = torch.optim.SGD(
        [{"params": list(part.parameters()), "lr": lr} for part, lr in parts],
        momentum=0.9,
        weight_decay=config.weight_decay,
    )
    steps = max(config.min_steps, math.ceil(config.epochs * len(chosen) / config.batch_size))
    batches = training_batches(
        images,
        chosen,
        steps=steps,
        batch_size=config.batch_size,
        view_size=view_size,
        seed=seed,
        num_threads=num_threads,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shown = track(batches, f"finetune on {len(chosen)} images", steps, "steps")
        for step, (views_BCHW, labels_B) in enumerate(shown):
            x_BCHW = prepare(views_BCHW.to(device, non_blocking=True).float().div_(255))
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype is not None):
                logits_BK: Tensor = train(x_BCHW)
            loss = F.cross_entropy(logits_BK.float(), labels_B.to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for group, (_, lr) in zip(optimiser.param_groups, parts, strict=True):
                group["lr"] = cosine_lr(step, base_lr=lr, total_steps=steps, warmup_steps=0)
            optimiser.step()
    average_buffers(whole)
    return whole.eval()
