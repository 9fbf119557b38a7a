"""Images as a plane for each channel on a CPU, by OpenCV: in a part of torch's time.

Shapes: B batch, C channels, H W pixels.
"""

import cv2
import numpy as np
import torch
from torch import Tensor


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
    batch, _, height, width = levels_B3HW.shape
    images = levels_B3HW.permute(0, 2, 3, 1).numpy()
    mean_B31 = torch.tensor([cv2.mean(image)[:3] for image in images])[..., None]
    # A fourth channel of ones brings what is added into the product, which saves a pass.
    matrix_B34 = torch.cat((matrix_B33, mean_matrix_B33 @ mean_B31), dim=2)
    floats_B4HW = torch.empty(batch, 4, height, width)
    floats_B4HW[:, 3] = 1.0
    planes = np.empty((3, height, width), dtype=np.uint8)
    for image, floats in zip(images, floats_B4HW.numpy(), strict=True):
        cv2.split(image, list(planes))
        np.copyto(floats[:3], planes)
    torch.bmm(matrix_B34, floats_B4HW.flatten(2), out=out.flatten(2))
    return out.clamp_(0.0, 1.0)


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
