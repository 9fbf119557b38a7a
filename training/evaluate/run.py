"""An evaluation: every checkpoint by every protocol, in this process or as one of several ranks."""

from collections.abc import Iterator

import torch

from pipeline.core.errors import InputError
from pipeline.core.progress import say
from training.core.distributed import rank, world_size
from training.evaluate.backgrounds import check_masks
from training.evaluate.case import Case
from training.evaluate.config import DETECTION, EvaluateConfig
from training.evaluate.detection.run import detection
from training.evaluate.encoders import UNTRAINED, load_encoders
from training.evaluate.labelled import check_classes, labelled_pair, open_labelled
from training.evaluate.predictions import write_predictions
from training.evaluate.protocols import LABEL_FREE, PROTOCOLS, chosen_protocols
from training.evaluate.results import Result, append_results
from training.evaluate.untrained import ONE_SEED, calibrate, over_seeds


def evaluate(config: EvaluateConfig, device: torch.device) -> list[Result]:
    """Score, and write every result and its predictions as soon as they are there.

    Called by every rank with absolute paths; the first one writes, and prints every figure.

    Returns:
        The results in order, the same on every rank.

    Raises:
        InputError: an unknown protocol, checkpoints or data that cannot be read or do not fit.
    """
    if DETECTION in config.protocol:
        if world_size() > 1:
            raise InputError(f"detection trains in one process, not in {world_size()}")
        found_by_parts = detection(config, device)
    else:
        found_by_parts = classification(config, device)
    results: list[Result] = []
    for found in found_by_parts:
        results += found
        if rank() == 0:
            append_results(config.results, found)
            for result in found:
                say(f"{result.row}: {result.column} {result.figure:.4g}")
    return results


def classification(config: EvaluateConfig, device: torch.device) -> Iterator[list[Result]]:
    """The figures of labelled images, checkpoint by checkpoint and protocol by protocol.

    The first rank writes the predictions before the figures are yielded.
    """
    protocols = chosen_protocols(config.protocol)
    labelled = not LABEL_FREE.issuperset(protocols)
    if labelled:
        train, val = labelled_pair(config.train, config.val)
        check_classes(train, val)
    else:
        train, val = (open_labelled(root, labels=False) for root in (config.train, config.val))
    if "backgrounds" in protocols:
        check_masks(val)
    encoders = load_encoders(
        config.checkpoint, encoder=config.encoder, seed=config.seed, device=device
    )
    for encoder in encoders:
        cases = [Case(one, train, val, config) for one in (encoder, *encoder.twins)]
        if encoder.kind == UNTRAINED:
            for case in cases:
                calibrate(case.extractor, train)
        for protocol in protocols:
            chosen = cases[:1] if protocol in ONE_SEED else cases
            found = over_seeds([PROTOCOLS[protocol](case) for case in chosen])
            for case in chosen:
                for predictions in case.predictions:
                    write_predictions(config.results, predictions)
                case.predictions.clear()
            yield found
