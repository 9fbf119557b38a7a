"""Whether features follow an object or its background: objects on other images' backgrounds.

After Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv
2006.09994, with cosines for the accuracy of a classifier.

Shapes: B batch, C channels, S side of the view, M images.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from training.evaluate.look import Look


class Swap(NamedTuple):
    """Mean cosines of the features of an object on another image's background."""

    object: float
    """With those of the image that the object is from."""
    background: float
    """With those of the image that the background is from."""


def background_swap(look: Look, numbers: NDArray[np.int64]) -> Swap | None:
    """Swap backgrounds between images of different classes.

    The background is the other image without its object, whose place takes the background's mean
    colour.

    Args:
        look: encoder and images; their saliency maps are masks.
        numbers: of the images.

    Returns:
        None where all images are of one class.
    """
    partners = _partners(look.images.labels()[numbers])
    kept = np.flatnonzero(partners >= 0)
    objects: list[Tensor] = []
    backgrounds: list[Tensor] = []
    for rows in look.batches(kept):
        front = look.views(numbers[rows], matte=True)
        back = look.views(numbers[partners[rows]], matte=True)
        assert front.matte_B1SS is not None
        assert back.matte_B1SS is not None
        gap = _mean_colour(back.image01_BCSS, 1 - back.matte_B1SS)
        behind = torch.lerp(back.image01_BCSS, gap.expand_as(back.image01_BCSS), back.matte_B1SS)
        mixed = torch.lerp(behind, front.image01_BCSS, front.matte_B1SS)
        seen, own, other = (
            look.encode(look.subject.prepare(image))
            for image in (mixed, front.image01_BCSS, back.image01_BCSS)
        )
        objects.append(F.cosine_similarity(seen, own, dim=1))
        backgrounds.append(F.cosine_similarity(seen, other, dim=1))
    if not objects:
        return None
    return Swap(*(float(torch.cat(parts).mean()) for parts in (objects, backgrounds)))


def _partners(labels_M: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each image the next one, round the end, of another class; -1 where all are of one."""
    partners = np.full(len(labels_M), -1, dtype=np.int64)
    for shift in range(1, len(labels_M)):
        other = np.roll(np.arange(len(labels_M)), -shift)
        takes = (partners < 0) & (labels_M[other] != labels_M)
        partners[takes] = other[takes]
        if (partners >= 0).all():
            break
    return partners


def _mean_colour(image01_BCSS: Tensor, weight_B1SS: Tensor) -> Tensor:
    """Mean colour [B, C, 1, 1] of the pixels by weight."""
    total = weight_B1SS.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return (image01_BCSS * weight_B1SS).sum(dim=(2, 3), keepdim=True) / total
