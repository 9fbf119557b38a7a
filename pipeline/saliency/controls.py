"""The controls: `centre`, a centred Gaussian, and `uniform`, under which all is foreground.

A source that finds objects no better than `centre` is no saliency.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, SaliencySource, flat_map, is_flat, shrink

MAP_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Centre(SaliencySource):
    """The same centred Gaussian for every image, with `sigma` in halves of a side."""

    any_channels = True

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise InputError(f"saliency centre wants sigma > 0, got {self.sigma}")

    def map_image(self, image: Image) -> Map:
        """The Gaussian; flat for a flat image."""
        if is_flat(shrink(image, MAP_SIDE)):
            return flat_map()
        place = (np.arange(MAP_SIDE) + 0.5) / MAP_SIDE * 2 - 1
        squared = place[:, None] ** 2 + place**2
        return np.exp(-squared / (2 * self.sigma**2)).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Uniform(SaliencySource):
    """A flat map for every image."""

    any_channels = True

    def map_image(self, image: Image) -> Map:
        """The flat map."""
        return flat_map()
