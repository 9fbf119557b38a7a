"""The size at which an image goes into the network of `scda`."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.interface import MAX_ASPECT, Image

STRIDE = 32
"""Pixels per cell of the last block: the same in all networks that `scda` knows."""
MARGIN = 2 * STRIDE
"""Pixels by which an image is reflected around itself, with edges `reflect`."""
MAX_SIDE = 2048


def input_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Height and width at which an image of that height and width goes into the network.

    The shorter side becomes `side`, the longer one keeps the aspect up to 1:4 and is rounded to a
    multiple of the stride: at 224 an image of aspect 4:3 is squeezed by 3.6 %.
    """
    cells = side / min(height, width) / STRIDE
    longest = MAX_ASPECT * side
    return (
        min(longest, max(side, round(height * cells) * STRIDE)),
        min(longest, max(side, round(width * cells) * STRIDE)),
    )


def resize(image: Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The image at another size [height, width]: areas averaged, or interpolated linearly."""
    height, width = size
    shrinks = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)
