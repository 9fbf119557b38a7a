"""What is measured of an encoder while it is pretrained, with labels and without."""

import copy
from functools import partial

import torch

from training.config.pretrain import PretrainConfig
from training.encoders.stem import with_mask
from training.evaluate.calibrate import calibrate
from training.evaluate.extract import ExtractConfig
from training.evaluate.heldout import heldout_loss
from training.evaluate.knn_check import knn_over_ranks
from training.evaluate.label_free import label_free_figures
from training.evaluate.labelled import StoredImages
from training.methods.interface import Method
from training.views.fills import Fill
from training.views.inputs import carrying_masks


def run_checks(
    config: PretrainConfig,
    method: Method,
    *,
    fill: Fill,
    device: torch.device,
    autocast: torch.dtype | None,
    step: int,
) -> dict[str, float]:
    """Measures the encoder as it stands; called by every rank.

    Args:
        config: the run.
        method: holds the encoder, which is left as it is.
        fill: of the run, for how it prepares views.
        device: that computes.
        autocast: compute in this type.
        step: global steps done. Random weights are measured with calibrated batch norm before the
            first one, in a copy.

    Returns:
        The figures of ``label_free_figures``, of validation images where there are some, and of
        those that the run asks for: ``knn``, top-1 in percent, with ``knn_images``, the number of
        validation images, and ``heldout_loss``, in nats. The same on every rank.
    """
    extract = ExtractConfig(
        view_size=config.views.size,
        autocast_dtype=autocast,
        skip_damaged=config.on_damaged == "skip",
    )
    train = StoredImages(config.shards, config.cache)
    embedder = method.embedder
    if step == 0 and config.encoder.init is None:
        embedder = copy.deepcopy(embedder)
        calibrate(embedder, train, extract, prepare=fill.prepare, device=device)
    val = config.knn.val_shards
    figures = label_free_figures(
        embedder,
        train if val is None else StoredImages(val, config.cache),
        config,
        prepare=fill.prepare,
        device=device,
    )
    if config.knn.val_shards is not None:
        found = knn_over_ranks(
            embedder.backbone,
            train_root=config.knn.train_shards or config.shards,
            val_root=config.knn.val_shards,
            cache=config.cache,
            config=extract,
            prepare=fill.prepare,
            device=device,
            k=config.knn.k,
            temperature=config.knn.temperature,
        )
        figures |= {"knn": found.percent, "knn_images": found.num_images}
    if config.heldout.shards is not None:
        sees_masks = embedder.backbone.sees_masks
        figures["heldout_loss"] = heldout_loss(
            embedder,
            config.heldout,
            views=config.views,
            fill=fill,
            device=device,
            on_damaged=config.on_damaged,
            cache=config.cache,
            autocast=autocast,
            carry=partial(carrying_masks, carry=with_mask) if sees_masks else None,
        )
    return figures
