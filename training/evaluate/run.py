"""An evaluation: every checkpoint by every protocol, in this process or as one of several ranks."""

from collections.abc import Iterator
from pathlib import Path

import torch

from pipeline.core.errors import InputError
from pipeline.core.progress import say
from training.core.distributed import rank, world_size
from training.evaluate.backgrounds import check_masks
from training.evaluate.config import DETECTION, EvaluateConfig
from training.evaluate.detection.run import detection
from training.evaluate.labelled import check_classes, labelled_pair, open_labelled
from training.evaluate.predictions import ImageSet, Predictions, image_set, write_predictions
from training.evaluate.protocols import LABEL_FREE, Case, chosen_protocols
from training.evaluate.results import Result, append_results
from training.evaluate.subject import load_subjects
from training.evaluate.untrained import ONE_SEED, networks_of, over_seeds


def evaluate(
    config: EvaluateConfig,
    device: torch.device,
) -> list[Result]:
    """Score, and write every result and its predictions as soon as they are there.

    Called by every rank; the first one writes, and says every figure.

    Args:
        config: what is scored, how, and on what; paths absolute.
        device: that computes.

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

    Arguments and errors as in `evaluate`.
    """
    protocols = chosen_protocols(config.protocol)
    one_seed = chosen_protocols(ONE_SEED)
    labelled = not LABEL_FREE.issuperset(config.protocol)
    if labelled:
        train, val = labelled_pair(config.train, config.val)
        check_classes(train, val)
    else:
        train, val = (open_labelled(root, labels=False) for root in (config.train, config.val))
    if "backgrounds" in config.protocol:
        check_masks(val)
    subjects = load_subjects(
        config.checkpoint, encoder=config.encoder, seed=config.seed, device=device
    )
    images = image_set(val) if rank() == 0 and labelled else None
    for subject in subjects:
        networks = networks_of(
            subject, train, device=device, batch_size=config.batch_size, bf16=config.bf16
        )
        cases = [Case(network, train, val, config, device) for network in networks]
        for protocol in protocols:
            chosen = cases[:1] if protocol in one_seed else cases
            found = over_seeds([protocol(case) for case in chosen])
            for case in chosen:
                if images is not None:
                    _write(case, images, config.results)
                case.predicted.clear()
            yield found


def _write(case: Case, images: ImageSet, folder: Path) -> None:
    """Writes what a protocol predicted for the images."""
    for result, predicted_DV, numbers in case.predicted:
        predictions = Predictions(
            result=result, images=images.chosen(numbers), predicted_DV=predicted_DV.numpy()
        )
        write_predictions(folder, predictions)
