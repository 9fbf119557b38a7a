"""Superpixels: small pieces of even colour, and who touches whom.

SLIC (Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", PAMI
2012), as OpenCV has it.

Shapes: h w pixels of the image that is cut, N superpixels, K the most neighbours that one has.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.interface import Image, Map

COMPACTNESS = 30.0
"""Weight of place against colour (8-bit Lab) in SLIC."""
ITERATIONS = 6

Floats = NDArray[np.float64]

# SLIC's sums depend on the order in which threads finish.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Superpixels:
    """An image cut to pieces.

    Attributes:
        labels_hw: int32, the number of each pixel's superpixel.
        area_N: float64, in pixels.
        centre_N2: float64, x and y in shares of the image's width and height.
        neighbours_NK: those that share an edge, filled up with the superpixel itself.
        sides_4N: float64, pixels on the top, bottom, left and right edge of the image.
    """

    labels_hw: NDArray[np.int32]
    area_N: Floats
    centre_N2: Floats
    neighbours_NK: NDArray[np.intp]
    sides_4N: Floats

    def __len__(self) -> int:
        return len(self.area_N)

    @property
    def is_border_N(self) -> NDArray[np.bool_]:
        """Which superpixels lie at the image's edge."""
        return np.asarray(self.sides_4N.sum(axis=0) > 0)

    def mean(self, values: Map) -> Floats:
        """Mean of float32 [h, w] over each superpixel, float64 [N]."""
        return _sums(self.labels_hw, values, len(self)) / self.area_N

    def paint(self, values_N: Floats) -> Map:
        """The map, float32 [h, w], that has a superpixel's value at each of its pixels."""
        return values_N.astype(np.float32)[self.labels_hw]


def cut(image: Image, num: int) -> Superpixels:
    """Cut an image into about `num` superpixels.

    Args:
        image: uint8 [h, w, 3] RGB; sides of 8 pixels at least.
        num: how many are wanted; their number depends on the image's form.
    """
    height, width = image.shape[:2]
    region = max(3, round((height * width / num) ** 0.5))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLIC, region, COMPACTNESS)
    slic.iterate(ITERATIONS)
    given = np.asarray(slic.getLabels(), dtype=np.int32)
    is_used = np.bincount(given.ravel()) > 0  # SLIC numbers superpixels that have lost all pixels
    labels = (np.cumsum(is_used, dtype=np.int32) - 1).astype(np.int32)[given]
    total = int(is_used.sum())
    area = np.bincount(labels.ravel(), minlength=total).astype(np.float64)
    x = np.broadcast_to((np.arange(width) + 0.5) / width, labels.shape)
    y = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], labels.shape)
    centres = [_sums(labels, place, total) / area for place in (x, y)]
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    sides = [np.bincount(edge, minlength=total).astype(np.float64) for edge in edges]
    return Superpixels(
        labels, area, np.stack(centres, axis=1), _neighbours(labels, total), np.stack(sides)
    )


def _neighbours(labels: NDArray[np.int32], total: int) -> NDArray[np.intp]:
    touch = np.zeros((total, total), dtype=bool)
    touch[labels[:, 1:], labels[:, :-1]] = True
    touch[labels[1:], labels[:-1]] = True
    touch |= touch.T
    np.fill_diagonal(touch, False)
    most = max(1, int(touch.sum(axis=1).max()))
    order = np.argsort(~touch, axis=1, kind="stable")[:, :most]
    is_neighbour = np.take_along_axis(touch, order, axis=1)
    return np.where(is_neighbour, order, np.arange(total)[:, None])


def _sums(labels: NDArray[np.int32], values: NDArray[np.floating], total: int) -> Floats:
    summed = np.bincount(labels.ravel(), weights=values.ravel(), minlength=total)
    return summed.astype(np.float64, copy=False)
