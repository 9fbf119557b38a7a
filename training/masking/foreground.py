"""Which patches of a view are foreground.

Shapes: `B` batch, `G` grid side.
"""

import torch
from torch import Tensor

FLAT_STD = 2e-3
"""Spread under which a map in [0, 1] says nothing: half a level of 8 bits is 1.96e-3, the largest
standard deviation that values one level apart can have, so rounding alone stays below it."""


def foreground(saliency_BGG: Tensor, *, threshold: float = -0.6, eps: float = FLAT_STD) -> Tensor:
    """Mark the patches with `saliency >= mean + threshold * std` of their own view.

    The standard deviation is the population's, over the view's G * G patches (arXiv 2309.12757,
    section 3.1). A map without spread is all foreground: rounding must not decide it.

    Args:
        saliency_BGG: saliency per patch, float in [0, 1]; any leading dimensions.
        threshold: in standard deviations; the paper's is -0.6.
        eps: standard deviation below which a map counts as flat.

    Returns:
        True where a patch is foreground, bool, same shape.
    """
    # float64: in float32 the mean of equal values may land above them.
    saliency = saliency_BGG.to(torch.float64)
    mean = saliency.mean(dim=(-2, -1), keepdim=True)
    std = saliency.std(dim=(-2, -1), keepdim=True, correction=0)
    return (saliency >= mean + threshold * std) | (std < eps)
