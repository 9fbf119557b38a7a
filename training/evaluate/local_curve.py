"""How far a mask reaches into a feature map: for Local Contrastive MAE's question, how local it is.

Shapes: B batch, C channels, h w cells of the feature map, H W pixels, M images.
"""

from collections import defaultdict
from collections.abc import Callable

import cv2
import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

MOST_CELLS = 8
"""The longest distance that is looked at."""


def feature_map(network: nn.Module, run: Callable[[], object]) -> Tensor | None:
    """The last map of more than one cell [B, C, h, w] that a module gives while `run` runs."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            found[:] = [output]

    handles = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found[0].float().cpu() if found else None


def cosines_by_distance(whole: Tensor, masked: Tensor, mask_BCHW: Tensor) -> dict[int, list[float]]:
    """The cosine of each cell of two maps [B, C, h, w], by its distance to the nearest masked one.

    A cell is masked where any of its pixels is; distances are in cells, a diagonal step counts 1.

    Returns:
        By distance, up to `MOST_CELLS`, the mean over the cells of each image that has such cells.
    """
    size = whole.shape[2:]
    hidden_Bhw = F.adaptive_max_pool2d(mask_BCHW.any(dim=1, keepdim=True).float(), size)[:, 0]
    cosine_Bhw = F.cosine_similarity(whole, masked, dim=1).numpy()
    found: dict[int, list[float]] = defaultdict(list)
    for seen_hw, cosine_hw in zip((hidden_Bhw == 0).numpy(), cosine_Bhw, strict=True):
        if not seen_hw.all():
            away_hw = cv2.distanceTransform(seen_hw.astype(np.uint8), cv2.DIST_C, 3)
            for distance in range(MOST_CELLS + 1):
                if (away_hw == distance).any():
                    found[distance].append(float(cosine_hw[away_hw == distance].mean()))
    return found
