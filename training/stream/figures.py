"""What a network of a stream is worth on every set: kNN, or a loss where there are no labels.

Shapes: V images that are classified.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.engine.start import build_method, first_state
from training.evaluate.checks import extractor_of, heldout_loss
from training.evaluate.features import FeatureExtractor
from training.evaluate.frozen import knn_predict
from training.evaluate.labelled import LabelledImages, hashed_subset, labelled_pair, stored_images
from training.views.fills import fill_named

KNN, LOSS = "knn", "heldout_loss"
LEFT_OUT, MOST_LEFT_OUT = 0.2, 2000
"""Share of a set without validation images that is classified by the rest, and most of them."""


@dataclass(frozen=True)
class Asked:
    """A finished run, and the sets that its network is measured on, with validation images."""

    run: PretrainConfig
    sets: tuple[tuple[Location, Location | None], ...]


def opened(
    root: Location, val: Location | None, run: PretrainConfig
) -> tuple[str, LabelledImages, LabelledImages | None]:
    """The figure that a set is measured by, its images, and its validation images.

    Raises:
        InputError: a set is missing; validation images are also in the set, or have other classes.
    """
    images = stored_images(root, run.cache)
    if val is None:
        return KNN if images.class_names else LOSS, images, None
    if images.class_names:
        return KNN, *labelled_pair(root, val, run.cache)
    return LOSS, images, stored_images(val, run.cache)


def measure(asked: Asked, device: torch.device) -> list[float]:
    """The figure of each set, of the network in a run's newest checkpoint; called by every rank.

    kNN in percent, by the features before the head: of the validation images, or of a fixed fifth
    of the set. Without labels the contrastive loss of `heldout_loss`, in nats, of the validation
    images, or else of the set's own.
    """
    run = asked.run
    with torch.random.fork_rng():
        method = build_method(replace(run, encoder=replace(run.encoder, init=None)))
    method.load_state_dict(first_state(run.out, device))
    method.to(device).to(memory_format=torch.channels_last)
    pixels = load_dataset_info(run.shards).pixels
    fill = fill_named(run.fill).of_set(pixels.normalisation)
    features = extractor_of(run, method.backbone, fill, device)
    values = []
    for root, val in asked.sets:
        kind, images, others = opened(root, val, run)
        if kind == KNN:
            values.append(_knn(features, images, others, run))
        else:
            whole = replace(features, network=method.embedder)
            values.append(heldout_loss(whole, others or images, run.heldout))
    return values


def _knn(
    extractor: FeatureExtractor,
    images: LabelledImages,
    val: LabelledImages | None,
    run: PretrainConfig,
) -> float:
    bank, labels = extractor.features(images)
    if val is not None:
        features, wanted_V = extractor.features(val)
    else:
        num = min(MOST_LEFT_OUT, max(1, round(LEFT_OUT * len(bank))))
        is_out = np.zeros(len(bank), dtype=np.bool_)
        is_out[hashed_subset([len(bank)], num)] = True
        out = torch.from_numpy(is_out)
        features, wanted_V = bank[out], labels[out]
        bank, labels = bank[~out], labels[~out]
    num_classes, settings = len(images.class_names), run.knn
    k, temperature = min(settings.k, len(bank)), settings.temperature
    found_V = knn_predict(
        bank, labels, features, num_classes=num_classes, k=k, temperature=temperature
    )
    return 100 * float((found_V.cpu() == wanted_V.cpu()).double().mean())
