"""Batch-norm statistics for a network that was never trained.

With its initial statistics (mean 0, variance 1) batch norm is the identity. The features of such a
network classify better than those of the same network once batch norm normalises, so a baseline
needs statistics of real images.

Shapes: B batch, S side of the view.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from training.evaluate.extract import ExtractConfig, Prepare
from training.evaluate.labelled import LabelledImages
from training.randomness.draws import sample_seeds

NUM_IMAGES, LARGEST_BATCH = 512, 128
NUM_SHARDS = 16
"""Shards that a subset is taken from: those of a bucket are fetched whole."""
SUBSET_DOMAIN = 0x43414C49
"""Keeps these hashes apart from others."""


def hashed_subset(shard_sizes: Sequence[int], num: int) -> NDArray[np.int64]:
    """Numbers of at most `num` images: those of smallest hash in the shards of smallest hash.

    The same in every run on the same shards. Sorted, int64.
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    firsts = np.cumsum(sizes) - sizes
    shards = np.sort(_by_hash(np.arange(len(sizes)), 0)[:NUM_SHARDS])
    numbers = np.concatenate([firsts[s] + np.arange(sizes[s]) for s in shards])
    return np.sort(_by_hash(numbers, 1)[:num])


def _by_hash(numbers: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    return numbers[np.argsort(sample_seeds(SUBSET_DOMAIN, epoch, numbers), kind="stable")]


def calibrate(
    network: nn.Module,
    images: LabelledImages,
    config: ExtractConfig,
    *,
    prepare: Prepare,
    device: torch.device,
) -> None:
    """Set the running statistics of every batch norm to the mean over batches of images.

    The batches are test-time views of up to 512 images (`hashed_subset`), about 128 at once.
    Batch norm is in training mode, all else in evaluation mode; nothing random is drawn. A network
    without batch norm stays as it is.

    Args:
        network: [B, 3, S, S] -> features, on `device`; changed in place.
        images: training images; labels are not used.
        config: how images become views.
        prepare: views in [0, 1] to what the network wants.
        device: that computes.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    numbers = hashed_subset(images.shard_sizes, NUM_IMAGES)
    # Batches of nearly one size: every image counts the same, and none stands alone.
    num_batches = -(-len(numbers) // LARGEST_BATCH)
    config = replace(config, batch_size=-(-len(numbers) // num_batches))
    modes = [(module, module.training) for module in network.modules()]
    settings = [(norm, norm.momentum, getattr(norm, "group_size", None)) for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    try:
        with torch.no_grad():
            for views, _ in config.batches(images, numbers.tolist()):
                for norm, _, group_size in settings:
                    if group_size is not None:  # one group, the whole batch
                        norm.group_size = len(views)  # type: ignore[assignment]
                x_BCSS = prepare(views.to(device).float().div_(255))
                with torch.autocast(
                    device.type, config.autocast_dtype, enabled=config.autocast_dtype is not None
                ):
                    network(x_BCSS.contiguous(memory_format=torch.channels_last))
    finally:
        for norm, momentum, group_size in settings:
            norm.momentum = momentum
            if group_size is not None:
                norm.group_size = group_size
        for module, mode in modes:
            module.training = mode
