"""What a run measures of its encoder without labels: is it learning, and does it see the object.

Shapes: B batch, S side of the view, G grid side, M images, D features.
"""

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import DamagedSample
from pipeline.saliency.foreground import foreground
from training.evaluate.features import FeatureExtractor, evaluation_mode
from training.evaluate.image_views import centre_views, two_views
from training.evaluate.labelled import LabelledImages, hashed_subset
from training.methods.interface import PlainEmbedder, embedding_spread

INSTANCE_ACCURACY, SPREAD = "checked_instance_accuracy", "checked_embedding_spread"
OBJECT_SENSITIVITY = "object_sensitivity"
IMAGES = "checked_images"
NUM_IMAGES, NUM_PAIRS, BATCH_SIZE = 256, 128, 128


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
    numbers = hashed_subset(images.shard_sizes, NUM_IMAGES)
    if extractor.skip_damaged:
        numbers = np.array([n for n in numbers if _readable(images, int(n))], dtype=np.int64)
    pairs = numbers[:: -(-len(numbers) // NUM_PAIRS)]
    extractor = replace(extractor, batch_size=BATCH_SIZE, autocast_dtype=None)
    with evaluation_mode(embedder), torch.no_grad():
        query_MD, key_MD = (
            F.normalize(embedder.head(features.to(extractor.device)).float(), dim=1).cpu()
            for features in two_views(extractor, images, pairs, seed=0)
        )
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
        image01_BCSS, saliency_BGG = centre_views(extractor, images, batch, grid=grid)
        assert saliency_BGG is not None
        object_BGG = foreground(saliency_BGG, rule="otsu")
        share_B = object_BGG.flatten(1).double().mean(dim=1)
        kept_B = (share_B > 0) & (share_B < 1)
        if bool(kept_B.any()):
            x_BCSS = image01_BCSS[kept_B.to(extractor.device)]
            parts.append(_sensitivity(extractor, x_BCSS, object_BGG[kept_B]))
    return float(torch.cat(parts).mean()) if parts else math.nan


def _sensitivity(extractor: FeatureExtractor, x_BCSS: Tensor, object_BGG: Tensor) -> Tensor:
    patch = x_BCSS.shape[-1] // object_BGG.shape[-1]
    object_BSS = object_BGG.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
    is_object_B1SS = object_BSS[:, None].to(x_BCSS.device)
    mean_BC11 = x_BCSS.mean(dim=(2, 3), keepdim=True)
    whole_BD, object_BD, background_BD = (
        extractor.forward(extractor.prepare(seen_BCSS)).float().cpu()
        for seen_BCSS in (
            x_BCSS,
            torch.where(is_object_B1SS, x_BCSS, mean_BC11),
            torch.where(is_object_B1SS, mean_BC11, x_BCSS),
        )
    )
    cosine_to_object_B = F.cosine_similarity(whole_BD, object_BD, dim=1)
    return cosine_to_object_B - F.cosine_similarity(whole_BD, background_BD, dim=1)


def _readable(images: LabelledImages, number: int) -> bool:
    try:
        images.image(number)
        images.saliency(number)
    except DamagedSample:
        return False
    return True
