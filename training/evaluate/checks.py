"""Measure an encoder while it is pretrained, with labels and without."""

import copy
from dataclasses import replace

import torch

from training.config.pretrain import PretrainConfig
from training.encoders.stem import with_mask
from training.evaluate.features import FeatureExtractor
from training.evaluate.heldout import heldout_loss
from training.evaluate.knn import check_features, knn_predict
from training.evaluate.label_free import label_free_figures
from training.evaluate.labelled import StoredImages, open_pair
from training.evaluate.untrained import calibrate
from training.methods.interface import Method
from training.views.fills import Fill


def run_checks(
    config: PretrainConfig,
    method: Method,
    *,
    fill: Fill,
    device: torch.device,
    autocast: torch.dtype | None,
    step: int,
) -> dict[str, float]:
    """Measures the encoder of a method, which is left as it is; called by every rank.

    Before the first step (0), random weights are measured with calibrated batch norm, in a copy.

    Returns:
        The figures of `label_free_figures`, of validation images where there are some, and of those
        that the run asks for: `knn`, top-1 in percent, with `knn_images`, the number of validation
        images, and `heldout_loss`, in nats. The same on every rank.
    """
    train = StoredImages(config.shards, config.cache)
    val = config.knn.val_shards
    embedder = method.embedder
    calibrated = step == 0 and config.encoder.init is None
    if calibrated:
        embedder = copy.deepcopy(embedder)
    extractor = FeatureExtractor(
        network=embedder.backbone,
        prepare=fill.prepare,
        device=device,
        view_size=config.views.size,
        autocast_dtype=autocast,
        skip_damaged=config.on_damaged == "skip",
    )
    if calibrated:
        calibrate(replace(extractor, network=embedder), train)
    images = train if val is None else StoredImages(val, config.cache)
    figures = label_free_figures(embedder, extractor, images, grid=config.views.grid)
    if val is not None:
        figures |= _knn_figures(extractor, config)
    if config.heldout.shards is not None:
        figures["heldout_loss"] = heldout_loss(
            embedder,
            config,
            fill=fill,
            device=device,
            autocast=autocast,
            carry=with_mask if embedder.backbone.sees_masks else None,
        )
    return figures


def _knn_figures(extractor: FeatureExtractor, config: PretrainConfig) -> dict[str, float]:
    """Top-1; `preflight` has made sure that no validation image is among those that vote."""
    assert config.knn.val_shards is not None
    train, val = open_pair(
        config.knn.train_shards or config.shards, config.knn.val_shards, config.cache
    )
    num_classes = len(train.class_names)
    features_VD, labels_V = extractor.features(val)
    check_features("validation", features_VD, labels_V, num_classes)
    predicted_V = knn_predict(
        *extractor.features(train),
        features_VD,
        num_classes=num_classes,
        k=config.knn.k,
        temperature=config.knn.temperature,
    )
    right_V = predicted_V.cpu() == labels_V.cpu()
    return {"knn": 100 * float(right_V.double().mean()), "knn_images": len(labels_V)}
