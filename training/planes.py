"""Images as a plane for each channel on a CPU, by OpenCV and strip by strip: within the cache.

Shapes: B batch, C channels, H W pixels, N pixels of a strip.
"""

import cv2
import numpy as np
import torch
from torch import Tensor

STRIP = 1 << 14
"""Pixels that are coloured at once: as floats they stay in a core's cache."""


def colour_levels(
    levels_B3HW: Tensor,
    matrix_B33: Tensor,
    mean_matrix_B33: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Map every pixel x of an image with mean colour m to `M x + P m`, clamped to [0, 1].

    Args:
        levels_B3HW: uint8, in any memory order; channels last is the fastest.
        matrix_B33: M, float32.
        mean_matrix_B33: P, float32.
        out: where the mapped images go, contiguous.

    Returns:
        float32, same shape, contiguous.
    """
    if out is None:
        out = torch.empty(levels_B3HW.shape)
    images = levels_B3HW.permute(0, 2, 3, 1).numpy()
    mean_B31 = torch.tensor([cv2.mean(image)[:3] for image in images])[..., None]
    # A fourth channel of ones brings what is added into the product, which saves a pass.
    matrix_B34 = torch.cat((matrix_B33, mean_matrix_B33 @ mean_B31), dim=2)
    floats_4N = torch.ones(4, STRIP)
    channels_3N = floats_4N[:3].numpy()
    planes = np.empty(levels_B3HW.shape[1:], dtype=np.uint8)
    flat = planes.reshape(3, -1)
    for image, matrix_34, made_3HW in zip(images, matrix_B34, out, strict=True):
        cv2.split(image, list(planes))
        made = made_3HW.view(3, -1)
        for start in range(0, flat.shape[1], STRIP):
            strip = flat[:, start : start + STRIP]
            pixels = strip.shape[1]
            np.copyto(channels_3N[:, :pixels], strip)
            product = made[:, start : start + pixels]
            torch.mm(matrix_34, floats_4N[:, :pixels], out=product).clamp_(0.0, 1.0)
    return out


def copy_where(mask_BCHW: Tensor, values_BCHW: Tensor, onto_BCHW: Tensor) -> Tensor:
    """Copies values onto images where the mask is True, on a CPU.

    Args:
        mask_BCHW: bool, one channel or all.
        values_BCHW: float32 or float64; where the mask is False they may be anything.
        onto_BCHW: what they are copied onto, same shape and dtype.

    Returns:
        `onto_BCHW`.
    """
    masks = mask_BCHW.view(torch.uint8).expand(onto_BCHW.shape).numpy()
    batch = zip(values_BCHW.numpy(), masks, onto_BCHW.numpy(), strict=True)
    for image in batch:
        for values, mask, onto in zip(*image, strict=True):
            cv2.copyTo(values, mask, onto)
    return onto_BCHW
