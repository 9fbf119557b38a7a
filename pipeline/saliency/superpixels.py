"""Superpixels: small pieces of even colour, their neighbours, and how they look.

SLIC (Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods", PAMI
2012), as OpenCV has it. A superpixel looks like its mean colour and its texture: colour alone
takes a grey bird for the grey stones behind it. Texture is the strength of the finest detail, at
two scales and in two directions, in logarithms: twice the strength is the same step in light and
in shade.

Shapes: h w pixels of the image that is cut, N superpixels, K neighbours at most.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.saliency.interface import Image, Map

COMPACTNESS = 30.0
"""Weight of place against colour (8-bit Lab) in SLIC."""
ITERATIONS = 6
FINE_SIGMA, COARSE_SIGMA = 1.0, 2.0
NOISE = 0.5
"""Added to a strength (Lab units) before the logarithm: weaker detail is noise."""

Floats = NDArray[np.float64]

# SLIC's sums depend on the order in which threads finish.
cv2.setNumThreads(1)


@dataclass(frozen=True)
class Superpixels:
    """An image cut to pieces.

    Attributes:
        labels_hw: the number of each pixel's superpixel.
        area_N: in pixels.
        centre_N2: x and y in shares of the image's width and height.
        neighbours_NK: those that share an edge, filled up with the superpixel itself.
        sides_4N: pixels on the top, bottom, left and right edge of the image.
    """

    labels_hw: NDArray[np.int32]
    area_N: Floats
    centre_N2: Floats
    neighbours_NK: NDArray[np.intp]
    sides_4N: Floats

    def __len__(self) -> int:
        return len(self.area_N)

    def mean(self, values_hw: NDArray[np.floating]) -> Floats:
        """Mean over each superpixel, float64 [N]."""
        return _sums(self.labels_hw, values_hw, len(self)) / self.area_N

    def paint(self, values_N: Floats) -> Map:
        """The map, float32 [h, w], that has a superpixel's value at each of its pixels."""
        return values_N.astype(np.float32)[self.labels_hw]


def cut(image: Image, num: int) -> Superpixels:
    """Cut an image, uint8 [h, w, 3] RGB with sides of at least 8, into about `num` superpixels."""
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
    flat = np.zeros(total * total, dtype=bool)
    flat[labels[:, 1:] * total + labels[:, :-1]] = True
    flat[labels[1:] * total + labels[:-1]] = True
    touch = flat.reshape(total, total)
    touch |= touch.T
    np.fill_diagonal(touch, False)
    num = touch.sum(axis=1)
    neighbours = np.repeat(np.arange(total)[:, None], max(1, int(num.max())), axis=1)
    neighbours[np.arange(neighbours.shape[1]) < num[:, None]] = np.nonzero(touch)[1]
    return neighbours


def _sums(labels: NDArray[np.int32], values: NDArray[np.floating], total: int) -> Floats:
    summed = np.bincount(labels.ravel(), weights=values.ravel(), minlength=total)
    return summed.astype(np.float64, copy=False)


def appearance(detail: Image, small: Image, pieces: Superpixels, texture: float) -> Floats:
    """Features of superpixels; their Euclidean distance is a visible difference.

    Args:
        detail: the image at the size at which texture is measured, uint8 RGB.
        small: the image as it was cut into `pieces`.
        pieces: the superpixels.
        texture: how many Lab units a texture e times as strong is worth.

    Returns:
        float64 [N, 8]: L, a, b, and five textures.
    """
    lab = to_lab(small)
    colours = [pieces.mean(lab[..., channel]) for channel in range(3)]
    height, width = small.shape[:2]
    textures = []
    for strength in _detail(to_lab(detail)):
        resized = cv2.resize(strength, (width, height), interpolation=cv2.INTER_AREA)
        textures.append(texture * np.log(pieces.mean(np.asarray(resized, strength.dtype)) + NOISE))
    return np.stack(colours + textures, axis=1)


def to_lab(image: Image) -> Map:
    """CIE Lab of sRGB, float32 [h, w, 3]; L runs from 0 to 100."""
    scaled = np.divide(image, np.float32(255), dtype=np.float32)
    return np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB), dtype=np.float32)


def _detail(lab: Map) -> list[Map]:
    """Strengths of texture, float32 [h, w] each: L finest, L fine, colour fine, across, down."""
    fine = cv2.GaussianBlur(lab, (0, 0), FINE_SIGMA)
    coarse = cv2.GaussianBlur(lab, (0, 0), COARSE_SIGMA)
    lightness = np.ascontiguousarray(fine[..., 0])
    between = np.abs(fine - coarse)
    strengths = (
        np.abs(lab[..., 0] - lightness),
        between[..., 0],
        between[..., 1] + between[..., 2],
        np.abs(cv2.Sobel(lightness, cv2.CV_32F, 1, 0)),
        np.abs(cv2.Sobel(lightness, cv2.CV_32F, 0, 1)),
    )
    return [np.ascontiguousarray(strength, dtype=np.float32) for strength in strengths]
