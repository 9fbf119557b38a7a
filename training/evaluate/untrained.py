"""The untrained baseline: several random networks with calibrated batch norm."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import torch

from training.evaluate.calibrate import NUM_IMAGES, calibrate
from training.evaluate.labelled import LabelledImages
from training.evaluate.results import Result
from training.evaluate.subject import UNTRAINED, Subject

STUDENT_T = {2: 12.706, 3: 4.303}
"""Quantile 0.975 of Student's t by the number of seeds."""
ONE_SEED = ("finetune", "linear_paper")
"""Protocols that train for long: of an untrained network they take the first seed alone."""


def networks_of(
    subject: Subject, train: LabelledImages, *, device: torch.device, batch_size: int, bf16: bool
) -> list[Subject]:
    """A trained subject by itself; an untrained one and its twins, calibrated on images."""
    networks = [subject, *subject.twins]
    if subject.encoder == UNTRAINED:
        for one in networks:
            config = one.extract_config(batch_size=batch_size, bf16=bf16)
            calibrate(one.network, train, config, prepare=one.prepare, device=device)
    return networks


def over_seeds(by_seed: Sequence[list[Result]]) -> list[Result]:
    """The mean of each figure over random networks.

    Its interval adds two uncertainties as independent ones: the images' (the mean half width of
    the networks' intervals, which all are of the same images) and the seeds' (t s / sqrt(n), of the
    standard deviation s over n seeds).

    Args:
        by_seed: the results of each network, in one order; those of a trained one come back.
    """
    if by_seed[0][0].encoder != UNTRAINED:
        return by_seed[0]
    return [_mean(list(same)) for same in zip(*by_seed, strict=True)]


def _mean(results: list[Result]) -> Result:
    first, figures = results[0], [result.figure for result in results]
    seeds = [result.checkpoint_digest.partition(":")[2] for result in results]
    more = {name: fmean(result.more[name] for result in results) for name in first.more}
    settings = {"untrained_seeds": len(results), "batch_norm": f"calibrated on {NUM_IMAGES} images"}
    if len(results) > 1:
        more |= {f"seed {seed}": figure for seed, figure in zip(seeds, figures, strict=True)}
    return replace(
        first,
        checkpoint_digest=f"random:{','.join(seeds)}",
        figure=fmean(figures),
        interval=_interval(results, figures),
        settings=first.settings | settings,
        more=more,
    )


def _interval(results: list[Result], figures: list[float]) -> tuple[float, float] | None:
    given = [result.interval for result in results if result.interval is not None]
    if len(given) < len(results):
        return None
    if len(results) == 1:
        return given[0]
    of_seeds = STUDENT_T[len(figures)] * stdev(figures) / math.sqrt(len(figures))
    middle = fmean(figures)
    low, high = (fmean(ends) for ends in zip(*given, strict=True))
    ends = middle - math.hypot(middle - low, of_seeds), middle + math.hypot(high - middle, of_seeds)
    if results[0].name != "top1":  # a share has bounds
        return ends
    return max(0.0, ends[0]), min(100.0, ends[1])
