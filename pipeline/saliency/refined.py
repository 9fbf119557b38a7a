"""Refinement of any source's maps to the edges of the image: the guided filter.

He, Sun, Tang: "Guided Image Filtering", ECCV 2010: within each small window the refined map is a
linear function of the image's colours, so it has edges where the image has them and none
elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, Wrapper, shrink


@dataclass(frozen=True, kw_only=True)
class Refined(Wrapper):
    """Another source's maps, filtered with the image as guide.

    Attributes:
        side: shorter side in pixels at which the map is filtered, if the image is larger.
        radius: of the filter's window, as a share of the shorter side.
        smoothness: variance of colours (in 0..1, squared) that does not count as an edge.
    """

    option: ClassVar[str] = "refine"

    side: int = 112
    radius: float = 0.06
    smoothness: float = 1e-3

    def __post_init__(self) -> None:
        if not 8 <= self.side <= 1024 or not 0 < self.radius <= 0.5 or not self.smoothness > 0:
            raise InputError(
                "refined saliency wants refine_side in 8..1024, refine_radius in 0..0.5 and "
                f"refine_smoothness > 0, got {self.side}, {self.radius}, {self.smoothness}"
            )

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute the base's maps and filter them."""
        maps = self.base(images)
        return [self._refine(image, saliency) for image, saliency in zip(images, maps, strict=True)]

    def _refine(self, image: Image, saliency: Map) -> Map:
        if float(np.ptp(saliency)) == 0.0:
            return saliency  # what is flat has no edges, and stays flat to the last bit
        guide = shrink(image, self.side)
        height, width = guide.shape[:2]
        radius = max(1, round(self.radius * min(height, width)))
        resized = np.asarray(cv2.resize(saliency, (width, height)), np.float32)
        # In levels of 255: OpenCV takes the small determinants of a guide in 0..1 for singular.
        filtered = cv2.ximgproc.guidedFilter(guide, resized, radius, self.smoothness * 255**2)
        filtered = np.nan_to_num(np.asarray(filtered, np.float32), nan=0.0)
        return np.clip(filtered.reshape(height, width), 0.0, 1.0)
