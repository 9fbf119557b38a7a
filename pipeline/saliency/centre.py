"""`centre`: a control that knows only that photographers point at things.

A source that finds objects no better than this one is no saliency.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import InputError
from pipeline.saliency.interface import Image, Map, centre_prior, flat_map, is_flat, shrink

MAP_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Centre:
    """The same centred Gaussian for every image.

    Attributes:
        sigma: in halves of a side.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma <= 0:
            raise InputError(f"saliency centre wants sigma > 0, got {self.sigma}")

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; see `SaliencySource`."""
        prior = centre_prior(MAP_SIDE, MAP_SIDE, self.sigma)
        return [flat_map() if is_flat(shrink(image, MAP_SIDE)) else prior for image in images]
