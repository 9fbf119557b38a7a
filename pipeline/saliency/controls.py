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
    """The same centred Gaussian for every image.

    Attributes:
        sigma: in halves of a side.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise InputError(f"saliency centre wants sigma > 0, got {self.sigma}")

    def map_image(self, image: Image) -> Map:
        """The Gaussian; flat for a flat image."""
        if is_flat(shrink(image, MAP_SIDE)):
            return flat_map()
        return centre_prior(MAP_SIDE, MAP_SIDE, self.sigma)


@dataclass(frozen=True, kw_only=True)
class Uniform(SaliencySource):
    """A flat map for every image."""

    def map_image(self, image: Image) -> Map:
        """The flat map."""
        return flat_map()


def centre_prior(height: int, width: int, sigma: float) -> Map:
    """A Gaussian at the image's centre, float32 [height, width], 1 in the middle.

    Args:
        height: rows.
        width: columns.
        sigma: in halves of a side: at 1 the value in the middle of an edge is exp(-1/2).
    """
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2)).astype(np.float32)
