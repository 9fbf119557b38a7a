"""OpenCV's saliency: `spectral_residual` and `fine_grained`."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import (
    Image,
    Map,
    SaliencySource,
    flat_map,
    is_flat,
    shrink,
    spread_out,
)


@dataclass(frozen=True, kw_only=True)
class SpectralResidual(SaliencySource):
    """What is unexpected in the log amplitude spectrum (Hou and Zhang, 2007).

    Larger images are averaged to a shorter `side` first; the spectrum is that of a square.
    """

    side: int = 224
    spectrum_side: int = 64

    def __post_init__(self) -> None:
        if self.side < 8 or self.spectrum_side < 8:
            raise InputError(f"saliency spectral_residual wants sides >= 8, got {self}")

    def map_image(self, image: Image) -> Map:
        """Compute the map of one image."""
        algorithm = cv2.saliency.StaticSaliencySpectralResidual.create()
        algorithm.setImageWidth(self.spectrum_side)
        algorithm.setImageHeight(self.spectrum_side)
        return _compute(algorithm, shrink(image, self.side))


@dataclass(frozen=True, kw_only=True)
class FineGrained(SaliencySource):
    """Centre-surround differences at many scales (Montabone and Soto, 2010).

    Larger images are averaged to a shorter `side` first: the cost grows with the pixels.
    """

    side: int = 224

    def __post_init__(self) -> None:
        if self.side < 8:
            raise InputError(f"saliency fine_grained wants side >= 8, got {self}")

    def map_image(self, image: Image) -> Map:
        """Compute the map of one image."""
        algorithm = cv2.saliency.StaticSaliencyFineGrained.create()
        return _compute(algorithm, shrink(image, self.side))


def _compute(algorithm: cv2.saliency.StaticSaliency, image: Image) -> Map:
    if is_flat(image):  # the logarithm of an empty spectrum is noise
        return flat_map()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # OpenCV weighs the channels in this order
    computed, saliency = algorithm.computeSaliency(bgr)
    assert computed
    return spread_out(np.asarray(saliency, dtype=np.float32))
