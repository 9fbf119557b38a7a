"""Measure an encoder while it is pretrained: does it learn, does it see the object, is it good.

The loss on images that a run does not see, with a frozen bank of negatives, tracks how well a
network transfers as data and epochs grow (Xie et al., "On Data Scaling in Masked Image Modeling",
CVPR 2023, for reconstruction; here the loss is contrastive).

Shapes: B batch, S side of the view, G grid side, M images, D features, K images of the bank.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import DamagedSample, check
from pipeline.images.preprocessing import short_side
from pipeline.saliency.foreground import foreground
from pipeline.shardset.shared_images import counted, shared_images
from pipeline.storage.storage import Location
from training.config.pretrain import PretrainConfig
from training.config.settings import HeldoutConfig
from training.core.distributed import gather_rows_of_any_number, rank, world_size
from training.data.order import EpochOrder, kept_sizes
from training.evaluate.encoders import calibrate
from training.evaluate.features import FeatureExtractor, evaluation_mode
from training.evaluate.frozen import check_features, knn_predict
from training.evaluate.labelled import LabelledImages, hashed_subset, open_labelled, stored_images
from training.methods.interface import Method, PlainEmbedder, embedding_spread
from training.methods.moco.method import info_nce
from training.views.fills import Fill
from training.views.patches import patches_to_pixels

INSTANCE_ACCURACY, SPREAD = "checked_instance_accuracy", "checked_embedding_spread"
OBJECT_SENSITIVITY = "object_sensitivity"
IMAGES = "checked_images"
NUM_IMAGES, NUM_PAIRS, BATCH_SIZE = 256, 128, 128
HELDOUT_SEED = 0x48454C44
"""Of the held-out views, whatever the run's own seed is."""
LARGEST_BATCH, FEWEST_IMAGES = 64, 4
"""Of held-out images."""


def run_checks(
    config: PretrainConfig,
    method: Method,
    *,
    fill: Fill,
    device: torch.device,
    autocast: torch.dtype | None,
    step: int,
) -> dict[str, float]:
    """Measure the encoder of a method, which is left as it is; called by every rank.

    Before the first step (0), random weights are measured with calibrated batch norm, in a copy.

    Returns:
        The figures of `label_free_figures`, of validation images where there are some, and of those
        that the run asks for: `knn`, top-1 in percent, with `knn_images`, the number of validation
        images, and `heldout_loss`, in nats. The same on every rank.
    """
    train = stored_images(config.shards, config.cache)
    val = config.knn.val_shards
    embedder = method.embedder
    calibrated = step == 0 and config.encoder.init is None and config.start_from is None
    if calibrated:
        embedder = copy.deepcopy(embedder)
    extractor = extractor_of(config, embedder.backbone, fill, device, autocast)
    if calibrated:
        calibrate(replace(extractor, network=embedder), train)
    images = train if val is None else stored_images(val, config.cache)
    figures = label_free_figures(embedder, extractor, images, grid=config.views.grid)
    if val is not None:
        figures |= _knn_figures(extractor, config, images)
    if config.heldout.shards is not None:
        whole = replace(extractor, network=embedder)
        held = stored_images(config.heldout.shards, config.cache)
        figures |= heldout_figures(whole, held, train, config)
    return figures


def extractor_of(
    config: PretrainConfig,
    network: nn.Module,
    fill: Fill,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> FeatureExtractor:
    """The test-time views of a run, through one of its networks."""
    return FeatureExtractor(
        network=network,
        prepare=fill.prepare,
        device=device,
        view_size=config.views.size,
        resize=short_side(config.views.size),
        autocast_dtype=autocast,
        skip_damaged=config.on_damaged == "skip",
    )


def _knn_figures(
    extractor: FeatureExtractor, config: PretrainConfig, val: LabelledImages
) -> dict[str, float]:
    """Top-1; `preflight` has made sure of equal classes, and that no image is in both sets."""
    train = open_labelled(config.knn.train_shards or config.shards, config.cache)
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


def label_free_figures(
    embedder: PlainEmbedder, extractor: FeatureExtractor, images: LabelledImages, *, grid: int
) -> dict[str, float]:
    """Figures of an encoder in training, which is left as it is; the same on every rank.

    Of up to 256 images, always the same (`hashed_subset`), and two views of half of them, in the
    weights' own type. The extractor's network is the embedder's backbone.

    Returns:
        `checked_instance_accuracy`, in percent: how often an augmented view's embedding is nearest
        to that of its own image's other view, among `checked_images`. `checked_embedding_spread`,
        in [0, 1], of those embeddings. `object_sensitivity` (see there), where there are objects.

    Raises:
        DamagedSample: an image or its map cannot be read, and the run does not skip such.
    """
    numbers = _readable(extractor, images, hashed_subset(images.shard_sizes, NUM_IMAGES))
    pairs = numbers[:: -(-len(numbers) // NUM_PAIRS)]
    extractor = replace(extractor, batch_size=BATCH_SIZE, autocast_dtype=None)
    with evaluation_mode(embedder), torch.no_grad():
        whole = replace(extractor, network=embedder)
        query_MD, key_MD = whole.two_views(images, pairs, seed=0)
        sensitivity = object_sensitivity(extractor, images, numbers, grid=grid)
    figures = {
        IMAGES: float(len(pairs)),
        INSTANCE_ACCURACY: instance_accuracy(query_MD, key_MD),
        SPREAD: float(embedding_spread(key_MD)),
    }
    return figures if math.isnan(sensitivity) else figures | {OBJECT_SENSITIVITY: sensitivity}


def instance_accuracy(query_MD: Tensor, key_MD: Tensor) -> float:
    """Share of unit rows whose nearest one among the keys is their own, in percent."""
    nearest_M = (query_MD @ key_MD.T).argmax(dim=1)
    return 100 * float((nearest_M == torch.arange(len(query_MD))).double().mean())


@torch.no_grad()
def object_sensitivity(
    extractor: FeatureExtractor, images: LabelledImages, numbers_M: NDArray[np.int64], *, grid: int
) -> float:
    """Mean of cos(f(x), f(x without background)) - cos(f(x), f(x without object)).

    f gives the features before the head. The object is the foreground of the stored saliency on
    the grid, by Otsu's rule; removed patches take the view's mean colour. Above 0, features follow
    the object more than its background. The size of the objects matters too: compare figures of
    one data set only. In [-2, 2]; NaN where no view has both foreground and background.
    """
    parts: list[Tensor] = []
    for first in range(0, len(numbers_M), extractor.batch_size):
        batch = numbers_M[first : first + extractor.batch_size]
        image01_BCSS, saliency_BGG = extractor.centre_views(images, batch, grid=grid)
        assert saliency_BGG is not None
        object_BGG = foreground(saliency_BGG, rule="otsu")
        share_B = object_BGG.flatten(1).double().mean(dim=1)
        kept_B = (share_B > 0) & (share_B < 1)
        if bool(kept_B.any()):
            x_BCSS = image01_BCSS[kept_B.to(extractor.device)]
            parts.append(_sensitivity(extractor, x_BCSS, object_BGG[kept_B]))
    return float(torch.cat(parts).mean()) if parts else math.nan


def _sensitivity(extractor: FeatureExtractor, x_BCSS: Tensor, object_BGG: Tensor) -> Tensor:
    is_object_B1SS = patches_to_pixels(object_BGG.flatten(1)[:, None], x_BCSS.shape[-1])
    is_object_B1SS = is_object_B1SS.to(x_BCSS.device)
    mean_BC11 = x_BCSS.mean(dim=(2, 3), keepdim=True)
    object_BCSS = torch.where(is_object_B1SS, x_BCSS, mean_BC11)
    background_BCSS = torch.where(is_object_B1SS, mean_BC11, x_BCSS)
    whole_BD, object_BD, background_BD = (
        extractor.forward(seen).float().cpu() for seen in (x_BCSS, object_BCSS, background_BCSS)
    )
    cosine_to_object_B = F.cosine_similarity(whole_BD, object_BD, dim=1)
    return cosine_to_object_B - F.cosine_similarity(whole_BD, background_BD, dim=1)


def _readable(
    extractor: FeatureExtractor, images: LabelledImages, numbers_M: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The numbers without those of damaged samples, where the extractor skips such."""

    def is_sound(number: int) -> bool:
        try:
            images.image(number)
            images.saliency(number)
        except DamagedSample:
            return False
        return True

    skipping = extractor.skip_damaged
    return np.array([n for n in numbers_M.tolist() if not skipping or is_sound(n)], np.int64)


def check_heldout(train_root: Location, config: HeldoutConfig) -> None:
    """Check the held-out shards.

    Raises:
        InputError: they are missing or damaged, too few, or share images (by the sha256 of their
            files) with those that are trained on.
    """
    shards = config.shards
    assert shards is not None
    train, held = stored_images(train_root), stored_images(shards)
    check(
        held.num_images >= FEWEST_IMAGES,
        f"heldout.shards {shards} holds {held.num_images} images: wanted at least {FEWEST_IMAGES}",
    )
    shared = shared_images(train.content(), held.content())
    check(
        not shared,
        f"heldout.shards {shards} shares {counted(shared)} with the images that are trained on, "
        f"{train_root}: give others",
    )


def heldout_figures(
    extractor: FeatureExtractor, held: LabelledImages, train: LabelledImages, config: PretrainConfig
) -> dict[str, float]:
    """`heldout_loss`, and `seen_loss` where that is asked for; called by every rank.

    The seen images are those of smallest hash: whatever share of them is used, the same ones, as
    long as that share has as many.
    """
    settings = config.heldout
    pairs_M2D = _pairs(extractor, held, fraction=1.0)
    figures = {"heldout_loss": bank_loss(pairs_M2D, settings)}
    if settings.seen:
        share = min(config.data_fraction, held.num_images / train.num_images)
        seen_M2D = _pairs(extractor, train, fraction=share)
        figures["seen_loss"] = bank_loss(pairs_M2D, settings, seen_M2D)
    return figures


def heldout_loss(
    extractor: FeatureExtractor, images: LabelledImages, config: HeldoutConfig
) -> float:
    """InfoNCE of held-out images against the bank; called by every rank, who split the work.

    The extractor's network gives unit rows, in evaluation mode. The views are unmasked, with the
    default colours and crops. The loss is -log of exp(q.k / t) over itself plus the sum over the
    bank, the mean.

    Returns:
        The loss in nats, the same on every rank; of embeddings without any order log(K + 1).
    """
    return bank_loss(_pairs(extractor, images, fraction=1.0), config)


@torch.no_grad()
def _pairs(extractor: FeatureExtractor, images: LabelledImages, *, fraction: float) -> Tensor:
    """Two views' embeddings of a share of the images, in an order of their own, [M, 2, D]."""
    count = sum(kept_sizes(images.shard_sizes, fraction))
    size = min(LARGEST_BATCH, count)
    order = EpochOrder(images.shard_sizes, seed=HELDOUT_SEED, epoch=0, fraction=fraction)
    numbers = order.sample_ids(0, count // size * size)
    numbers = _readable(extractor, images, numbers)
    is_split = len(numbers) >= world_size()
    own = np.array_split(numbers, world_size())[rank()] if is_split else numbers
    with evaluation_mode(extractor.network):
        in_parts = replace(extractor, batch_size=size)
        own_M2D = torch.stack(in_parts.two_views(images, own, seed=HELDOUT_SEED), dim=1)
    return gather_rows_of_any_number(own_M2D) if is_split else own_M2D


def bank_loss(pairs_M2D: Tensor, config: HeldoutConfig, others_M2D: Tensor | None = None) -> float:
    """InfoNCE of pairs of query and key; the keys of the first images are the bank.

    The pairs are the rest of the images, or others.
    """
    bank = min(config.bank_size, len(pairs_M2D) // 2)
    query_MD, key_MD = (pairs_M2D[bank:] if others_M2D is None else others_M2D).unbind(dim=1)
    loss, _ = info_nce(query_MD, key_MD, pairs_M2D[:bank, 1], temperature=config.temperature)
    return float(loss)
