"""The untrained baseline: several random networks with calibrated batch norm.

With its initial statistics (mean 0, variance 1) batch norm is the identity. The features of such a
network classify better than those of the same network once batch norm normalises, so a baseline
needs statistics of real images.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from training.evaluate.encoders import UNTRAINED
from training.evaluate.features import FeatureExtractor, evaluation_mode
from training.evaluate.intervals import t_quantile
from training.evaluate.labelled import LabelledImages, hashed_subset
from training.evaluate.results import Result

NUM_IMAGES, LARGEST_BATCH = 512, 128


def calibrate(extractor: FeatureExtractor, images: LabelledImages) -> None:
    """Set the running statistics of every batch norm to the mean over batches of images.

    The batches are test-time views of up to 512 images (`hashed_subset`), about 128 at once.
    Batch norm is in training mode, all else in evaluation mode; nothing random is drawn. Changes
    the network in place; one without batch norm stays as it is.
    """
    norms = [module for module in extractor.network.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return
    numbers = hashed_subset(images.shard_sizes, NUM_IMAGES)
    # Batches of nearly one size: every image counts the same, and none stands alone.
    num_batches = -(-len(numbers) // LARGEST_BATCH)
    in_equal_parts = replace(extractor, batch_size=-(-len(numbers) // num_batches))
    settings = [(norm, norm.momentum, getattr(norm, "group_size", None)) for norm in norms]
    with evaluation_mode(extractor.network), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for views, _ in in_equal_parts.batches(images, numbers.tolist()):
                for norm, _, group_size in settings:
                    if group_size is not None:  # one group, the whole batch
                        norm.group_size = len(views)  # type: ignore[assignment]
                extractor(views)
        finally:
            for norm, momentum, group_size in settings:
                norm.momentum = momentum
                if group_size is not None:
                    norm.group_size = group_size


def over_seeds(by_seed: Sequence[list[Result]]) -> list[Result]:
    """The mean of each figure over random networks; the results of a trained one as they are.

    Its interval adds two uncertainties as independent ones: the images' (the mean half width of
    the networks' intervals, which all are of the same images) and the seeds' (t s / sqrt(n), of the
    standard deviation s over n seeds).
    """
    if by_seed[0][0].encoder != UNTRAINED:
        return by_seed[0]
    return [_mean(same) for same in zip(*by_seed, strict=True)]


def _mean(results: Sequence[Result]) -> Result:
    first, figures = results[0], [result.figure for result in results]
    seeds = [result.checkpoint_digest.partition(":")[2] for result in results]
    more = {name: fmean(result.more[name] for result in results) for name in first.more}
    settings = {"untrained_seeds": len(results), "batch_norm": f"calibrated on {NUM_IMAGES} images"}
    interval, given = first.interval, [result.interval for result in results if result.interval]
    if len(results) > 1:
        more |= {f"seed {seed}": figure for seed, figure in zip(seeds, figures, strict=True)}
        interval = _interval(figures, given) if len(given) == len(results) else None
        if interval is not None and first.name == "top1":  # a share has bounds
            interval = max(0.0, interval[0]), min(100.0, interval[1])
    return replace(
        first,
        checkpoint_digest=f"random:{','.join(seeds)}",
        figure=fmean(figures),
        interval=interval,
        settings=first.settings | settings,
        more=more,
    )


def _interval(figures: list[float], given: list[tuple[float, float]]) -> tuple[float, float]:
    num, middle = len(figures), fmean(figures)
    of_seeds = t_quantile(num - 1) * stdev(figures) / math.sqrt(num)
    low, high = (fmean(ends) for ends in zip(*given, strict=True))
    return middle - math.hypot(middle - low, of_seeds), middle + math.hypot(high - middle, of_seeds)
