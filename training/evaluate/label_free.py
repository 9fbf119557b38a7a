"""What a run measures of its encoder without labels: is it learning, and does it see the object.

Shapes: B batch, C channels, S side of the view, G grid side, M images, D features.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone.info import BackboneInfo
from pipeline.core.errors import DamagedSample
from pipeline.images.preprocessing import Preprocessing, short_side
from pipeline.saliency.foreground import foreground
from training.config.pretrain import PretrainConfig
from training.evaluate.calibrate import hashed_subset
from training.evaluate.extract import Prepare
from training.evaluate.labelled import LabelledImages
from training.evaluate.look import Look, Views
from training.evaluate.subject import Subject
from training.methods.interface import PlainEmbedder, embedding_spread

INSTANCE_ACCURACY, SPREAD = "checked_instance_accuracy", "checked_embedding_spread"
OBJECT_SENSITIVITY = "object_sensitivity"
IMAGES = "checked_images"
NUM_IMAGES, NUM_PAIRS, BATCH_SIZE = 256, 128, 128


def label_free_figures(
    embedder: PlainEmbedder,
    images: LabelledImages,
    config: PretrainConfig,
    *,
    prepare: Prepare,
    device: torch.device,
) -> dict[str, float]:
    """Look at the encoder as it stands; the same on every rank.

    Args:
        embedder: in training, left as it is.
        images: of which up to 256 are looked at, and two views of half of them; always the same
            (`hashed_subset`).
        config: of the run, for views, grid and damaged samples.
        prepare: views in [0, 1] to what the network wants.
        device: that computes.

    Returns:
        `checked_instance_accuracy`, in percent: how often an augmented view's embedding is nearest
        to that of its own image's other view, among `checked_images`. `checked_embedding_spread`,
        in [0, 1], of those embeddings. `object_sensitivity` (see there), where there are objects.

    Raises:
        DamagedSample: an image or its map cannot be read, and the run does not skip such.
    """
    numbers = hashed_subset(images.shard_sizes, NUM_IMAGES)
    if config.on_damaged == "skip":
        numbers = np.array([n for n in numbers if _readable(images, int(n))], dtype=np.int64)
    pairs = numbers[:: -(-len(numbers) // NUM_PAIRS)]
    size, backbone = config.views.size, embedder.backbone
    look = Look(
        subject=Subject(
            name="run",
            encoder="query",
            network=backbone,
            info=BackboneInfo(
                architecture=config.encoder.architecture,
                feature_dim=backbone.feature_dim,
                preprocessing=Preprocessing(view_size=size, resize=short_side(size)),
            ),
            digest="",
            prepare=lambda x: prepare(x).contiguous(memory_format=torch.channels_last),
        ),
        images=images,
        grid=config.views.grid,
        device=device,
        seed=0,
        batch_size=BATCH_SIZE,
    )
    modes = [(module, module.training) for module in embedder.modules()]
    embedder.eval()
    try:
        with torch.no_grad():
            query_MD, key_MD = (
                F.normalize(embedder.head(features.to(device)).float(), dim=1).cpu()
                for features in look.two_views(pairs)
            )
        figures = {
            IMAGES: float(len(pairs)),
            INSTANCE_ACCURACY: instance_accuracy(query_MD, key_MD),
            SPREAD: float(embedding_spread(key_MD)),
        }
        sensitivity = object_sensitivity(look, numbers)
    finally:
        for module, training in modes:
            module.training = training
    return figures if math.isnan(sensitivity) else figures | {OBJECT_SENSITIVITY: sensitivity}


def instance_accuracy(query_MD: Tensor, key_MD: Tensor) -> float:
    """Share of unit rows whose nearest one among the keys is their own, in percent."""
    nearest_M = (query_MD @ key_MD.T).argmax(dim=1)
    return 100 * float((nearest_M == torch.arange(len(query_MD))).double().mean())


def object_sensitivity(look: Look, numbers: NDArray[np.int64]) -> float:
    """Mean of cos(f(x), f(x without background)) - cos(f(x), f(x without object)).

    f gives the features before the head. The object is the foreground of the stored saliency on
    the grid, by Otsu's rule; removed patches take the view's mean colour. Above 0, features follow
    the object more than its background. The size of the objects matters too: compare figures of
    one data set only.

    Args:
        look: encoder, in evaluation mode, and images.
        numbers: of the images.

    Returns:
        In [-2, 2]; NaN where no view has both foreground and background.
    """
    parts: list[Tensor] = []
    for first in range(0, len(numbers), look.batch_size):
        views = look.views(numbers[first : first + look.batch_size])
        parts += _sensitivities(look, views)
    return float(torch.cat(parts).mean()) if parts else math.nan


def _sensitivities(look: Look, views: Views) -> list[Tensor]:
    assert views.saliency_BGG is not None
    object_BGG = foreground(views.saliency_BGG, rule="otsu")
    share_B = object_BGG.flatten(1).double().mean(dim=1)
    kept = (share_B > 0) & (share_B < 1)
    if not bool(kept.any()):
        return []
    image_BCSS = views.image01_BCSS[kept.to(look.device)]
    patch = look.size // look.grid
    object_B1SS = object_BGG[kept].repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None]
    mean_BC11 = image_BCSS.mean(dim=(2, 3), keepdim=True)
    is_object = object_B1SS.to(look.device)
    whole, no_background, no_object = (
        look.encode(look.subject.prepare(x))
        for x in (
            image_BCSS,
            torch.where(is_object, image_BCSS, mean_BC11),
            torch.where(is_object, mean_BC11, image_BCSS),
        )
    )
    return [
        F.cosine_similarity(whole, no_background, dim=1)
        - F.cosine_similarity(whole, no_object, dim=1)
    ]


def _readable(images: LabelledImages, number: int) -> bool:
    try:
        images.image(number)
        images.saliency(number)
    except DamagedSample:
        return False
    return True
