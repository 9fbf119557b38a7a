"""An evaluation: every checkpoint by every protocol, in this process or as one of several ranks."""

from collections.abc import Callable, Iterator, Sequence

import torch

from pipeline.core.errors import check
from pipeline.core.progress import say
from training.core.distributed import rank, world_size
from training.evaluate.backgrounds import backgrounds, check_masks
from training.evaluate.case import Case
from training.evaluate.channels import channels
from training.evaluate.config import DETECTION, EvaluateConfig
from training.evaluate.detection.run import detection
from training.evaluate.diagnostics import diagnostics
from training.evaluate.encoders import UNTRAINED, calibrate, load_encoders, over_seeds
from training.evaluate.frozen import knn, linear
from training.evaluate.labelled import check_classes, labelled_pair, open_labelled
from training.evaluate.results import Result, append_results
from training.evaluate.sgd import finetune, linear_paper
from training.evaluate.uncertainty import uncertainty

PROTOCOLS: dict[str, Callable[[Case], list[Result]]] = {
    "knn": knn,
    "linear": linear,
    "linear_paper": linear_paper,
    "finetune": finetune,
    "backgrounds": backgrounds,
    "channels": channels,
    "diagnostics": diagnostics,
    "uncertainty": uncertainty,
}
"""Every rank calls a protocol, which splits its work over them and returns the same everywhere.

Detection, whose images have boxes, is not one of them.
"""
LABEL_FREE = frozenset({"diagnostics"})
"""Protocols that need no labels: with these alone, classes are not compared."""
ONE_SEED = ("finetune", "linear_paper")
"""Protocols that train for long: of an untrained network they take the first seed alone."""


def chosen_protocols(names: Sequence[str]) -> list[str]:
    """The names of protocols of labelled images, each once; none for detection.

    Raises:
        InputError: an unknown name; the message lists the known ones.
    """
    known = (*PROTOCOLS, DETECTION)
    for name in names:
        check(name in known, f"unknown protocol {name!r}: choose from {', '.join(known)}")
    return [name for name in dict.fromkeys(names) if name != DETECTION]


def evaluate(config: EvaluateConfig, device: torch.device) -> list[Result]:
    """Score, and write every result and its predictions as soon as they are there.

    Called by every rank with absolute paths; the first one writes, and prints every figure.

    Returns:
        The results in order, the same on every rank.

    Raises:
        InputError: an unknown protocol, checkpoints or data that cannot be read or do not fit.
    """
    if DETECTION in config.protocol:
        check(world_size() == 1, f"detection trains in one process, not in {world_size()}")
    scored = detection if DETECTION in config.protocol else classification
    results: list[Result] = []
    for found in scored(config, device):
        results += found
        if rank() == 0:
            append_results(config.results, found)
            for result in found:
                say(f"{result.row}: {result.column} {result.figure:.4g}")
    return results


def classification(config: EvaluateConfig, device: torch.device) -> Iterator[list[Result]]:
    """The figures of labelled images, checkpoint by checkpoint and protocol by protocol."""
    protocols = chosen_protocols(config.protocol)
    if LABEL_FREE.issuperset(protocols):
        train, val = (open_labelled(root, labels=False) for root in (config.train, config.val))
    else:
        train, val = labelled_pair(config.train, config.val)
        check_classes(train, val)
    if "backgrounds" in protocols:
        check_masks(val)
        val.pixels.check_rgb("backgrounds")
    encoders = load_encoders(
        config.checkpoint,
        encoder=config.encoder,
        seed=config.seed,
        device=device,
        batch_size=config.batch_size,
        autocast_dtype=torch.bfloat16 if config.bf16 else None,
    )
    for encoder in encoders:
        for images in (train, val):
            encoder.info.pixels.check_same(images.pixels, str(images.root))
        cases = [Case(one, train, val, config) for one in (encoder, *encoder.twins)]
        if encoder.kind == UNTRAINED:
            for case in cases:
                calibrate(case.encoder, train)
        for protocol in protocols:
            chosen = cases[:1] if protocol in ONE_SEED else cases
            yield over_seeds([PROTOCOLS[protocol](case) for case in chosen])
