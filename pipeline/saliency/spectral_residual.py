"""`spectral_residual`: what is unexpected in the log amplitude spectrum (Hou and Zhang, 2007)."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, flat_map, is_flat, shrink, spread_out


@dataclass(frozen=True, kw_only=True)
class SpectralResidual:
    """OpenCV's spectral residual.

    Attributes:
        side: shorter side in pixels to which larger images are averaged first.
        spectrum_side: side in pixels of the square whose spectrum is taken.
    """

    side: int = 224
    spectrum_side: int = 64

    def __post_init__(self) -> None:
        if self.side < 8 or self.spectrum_side < 8:
            raise InputError(f"saliency spectral_residual wants sides >= 8, got {self}")

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; see `SaliencySource`."""
        # made anew for each call: OpenCV's algorithm objects cannot be pickled
        algorithm = cv2.saliency.StaticSaliencySpectralResidual.create()
        algorithm.setImageWidth(self.spectrum_side)
        algorithm.setImageHeight(self.spectrum_side)
        maps = []
        for image in images:
            small = shrink(image, self.side)
            if is_flat(small):  # the logarithm of an empty spectrum is noise
                maps.append(flat_map())
                continue
            bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)  # OpenCV weighs the channels as BGR
            computed, saliency = algorithm.computeSaliency(bgr)
            assert computed
            maps.append(spread_out(np.asarray(saliency, dtype=np.float32)))
        return maps
