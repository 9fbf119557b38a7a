"""Images as a plane for each channel, which colours and filters are fast on.

Shapes: B batch, C channels, H W pixels.
"""

import cv2
import torch
from torch import Tensor


def image01(image_BCHW: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Float images in [0, 1], channel by channel in memory, from what a decoder gives.

    Args:
        image_BCHW: uint8, in any memory order; on a CPU channels last is the fastest.
        out: where the images go, contiguous.

    Returns:
        float32, same shape.
    """
    if image_BCHW.device.type == "cpu" and image_BCHW.permute(0, 2, 3, 1).is_contiguous():
        image_BCHW = _planes(image_BCHW)
    if out is None:
        out = torch.empty(image_BCHW.shape, dtype=torch.float32, device=image_BCHW.device)
    return out.copy_(image_BCHW).div_(255)


def _planes(image_BCHW: Tensor) -> Tensor:
    """The bytes by OpenCV, which takes a quarter of torch's time."""
    planes_BCHW = torch.empty(image_BCHW.shape, dtype=torch.uint8)
    pixels = image_BCHW.permute(0, 2, 3, 1).numpy()
    for image, planes in zip(pixels, planes_BCHW.numpy(), strict=True):
        cv2.split(image, list(planes))
    return planes_BCHW


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
