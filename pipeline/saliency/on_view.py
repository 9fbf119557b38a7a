"""How a saliency source looks at a view: the map on the view itself, per patch.

Shapes: B views, S side of a view, G grid side.
"""

from collections.abc import Callable
from dataclasses import asdict

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.saliency.interface import Map, SaliencySource
from pipeline.saliency.scda import Scda
from pipeline.saliency.scda_input import STRIDE
from pipeline.saliency.scda_network import localiser_of

OnView = Callable[[Tensor, int], NDArray[np.float32]]
"""Coloured views in [0, 1], float [B, 3, S, S], and G -> saliency per patch, [B, G, G]."""
VIEWS_AT_ONCE = 16


def on_view(source: SaliencySource) -> OnView:
    """How a source looks at a view."""
    return _activation_on_view(source) if isinstance(source, Scda) else _map_on_view(source)


def to_grid(saliency: Map, grid: int) -> Map:
    """A map averaged by area to patches."""
    return np.asarray(cv2.resize(saliency, (grid, grid), interpolation=cv2.INTER_AREA), np.float32)


def _activation_on_view(source: Scda) -> OnView:
    """The paper's way: a patch has the activation of its cell of the last block."""
    localiser = localiser_of(**asdict(source))

    @torch.inference_mode()
    def activation(images01_B3SS: Tensor, grid: int) -> NDArray[np.float32]:
        parts = []
        for part in images01_B3SS.split(VIEWS_AT_ONCE):
            # a small view is enlarged until each of its patches is a cell
            size = (grid * STRIDE, grid * STRIDE)
            enlarged = F.interpolate(part, size, mode="bilinear", align_corners=False)
            parts.append(localiser.activation(enlarged))
        return torch.cat(parts).cpu().numpy()

    return activation


def _map_on_view(source: SaliencySource) -> OnView:
    def saliency(images01_B3SS: Tensor, grid: int) -> NDArray[np.float32]:
        views = (images01_B3SS * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        return np.stack([to_grid(one, grid) for one in source(list(views))])

    return saliency
