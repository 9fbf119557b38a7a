"""`fine_grained`: centre-surround differences at many scales (Montabone and Soto, 2010)."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, flat_map, is_flat, shrink, spread_out


@dataclass(frozen=True, kw_only=True)
class FineGrained:
    """OpenCV's fine-grained saliency.

    Attributes:
        side: shorter side in pixels to which larger images are averaged first; the cost grows
            with the pixels.
    """

    side: int = 224

    def __post_init__(self) -> None:
        if self.side < 8:
            raise InputError(f"saliency fine_grained wants side >= 8, got {self}")

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; see `SaliencySource`."""
        # made anew for each call: OpenCV's algorithm objects cannot be pickled
        algorithm = cv2.saliency.StaticSaliencyFineGrained.create()
        maps = []
        for image in images:
            small = shrink(image, self.side)
            if is_flat(small):
                maps.append(flat_map())
                continue
            computed, saliency = algorithm.computeSaliency(cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
            assert computed
            maps.append(spread_out(np.asarray(saliency, dtype=np.float32)))
        return maps
