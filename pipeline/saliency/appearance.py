"""What a superpixel looks like: its colour and its texture.

Colour alone takes a grey bird on grey stones for stones, and everything that is in focus before a
blurred background for nothing. Texture tells them apart: how strong the finest detail is, at two
scales and in two directions (Lab, differences of Gaussians, Sobel), in logarithms, for a texture
twice as strong is one step further in light and in shade.

Shapes: h w pixels that were cut into superpixels, N superpixels, D features.
"""

import cv2
import numpy as np

from pipeline.saliency.interface import Image, Map, shrink
from pipeline.saliency.superpixels import Floats, Superpixels

FINE_SIGMA, COARSE_SIGMA = 1.0, 2.0
NOISE = 0.5
"""Added to a strength (Lab units) before the logarithm: weaker detail is noise."""


def appearance(
    image: Image, small: Image, pieces: Superpixels, *, detail_side: int, texture: float
) -> Floats:
    """Features of superpixels whose Euclidean distance is a difference that one can see.

    Args:
        image: uint8 [H, W, 3] RGB.
        small: uint8 [h, w, 3], the image as it was cut.
        pieces: the superpixels of `small`.
        detail_side: shorter side in pixels at which texture is measured, if the image has them.
        texture: how many Lab units a texture e times as strong is worth.

    Returns:
        float64 [N, 8]: L, a, b, and five textures.
    """
    lab = to_lab(small)
    colours = [pieces.mean(lab[..., channel]) for channel in range(3)]
    height, width = small.shape[:2]
    textures = []
    for strength in _detail(to_lab(shrink(image, detail_side))):
        resized = cv2.resize(strength, (width, height), interpolation=cv2.INTER_AREA)
        mean = pieces.mean(np.asarray(resized, np.float32))
        textures.append(texture * np.log(mean + NOISE))
    return np.stack(colours + textures, axis=1)


def to_lab(image: Image) -> Map:
    """CIE Lab of sRGB, float32 [h, w, 3]; L runs from 0 to 100."""
    scaled = image.astype(np.float32) / np.float32(255)
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
