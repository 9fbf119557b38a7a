"""`boundary`: what differs in colour from the image's border is salient. No labels, no weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.saliency.interface import (
    Image,
    Map,
    centre_prior,
    flat_map,
    is_flat,
    shrink,
    spread_out,
)


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Colour distance to the border, times a mild centre prior.

    The image's four border strips are taken for background, but for the strip that differs most
    from the others (an object that touches one side). A pixel's saliency is its Mahalanobis
    distance in Lab to the strip that resembles it most; a background of several parts (sky
    above, grass below) is then no object.

    Attributes:
        side: shorter side in pixels at which colours are compared.
        strip: width of a border strip, as a share of the shorter side.
        floor: added to the variance of a strip's colours per channel (Lab units squared), so
            that an even background does not make noise salient.
        centre_sigma: of the centre prior, in halves of a side.
    """

    side: int = 64
    strip: float = 0.1
    floor: float = 9.0
    centre_sigma: float = 0.7

    def __post_init__(self) -> None:
        if self.side < 8 or not 0 < self.strip < 0.5 or self.floor <= 0 or self.centre_sigma <= 0:
            raise InputError(
                f"saliency boundary wants side >= 8, 0 < strip < 0.5, floor > 0 and "
                f"centre_sigma > 0, got {self}"
            )

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute maps; see `SaliencySource`."""
        return [self._map(image) for image in images]

    def _map(self, image: Image) -> Map:
        small = shrink(image, self.side)
        if is_flat(small):
            return flat_map()
        lab = np.asarray(
            cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32
        )
        height, width = lab.shape[:2]
        thick = max(1, round(self.strip * min(height, width)))
        strips = [lab[:thick], lab[-thick:], lab[:, :thick], lab[:, -thick:]]
        colours = [np.asarray(strip, dtype=np.float64).reshape(-1, 3) for strip in strips]
        squared = [self._squared_distance(lab, c) for c in _most_alike(colours)]
        distance = np.sqrt(np.minimum.reduce(squared))
        flat_or_map = spread_out(distance)
        if flat_or_map.shape != distance.shape:
            return flat_or_map
        return flat_or_map * centre_prior(height, width, self.centre_sigma)

    def _squared_distance(self, lab: Map, background: NDArray[np.float64]) -> Map:
        """Squared Mahalanobis distance of an image [h, w, 3] to the colours [m, 3] of a strip."""
        mean = background.mean(axis=0)
        offset = background - mean
        # einsum and cv2.transform, not @: a threaded BLAS may sum in another order each time
        covariance = np.einsum("mi,mj->ij", offset, offset) / len(background)
        covariance += self.floor * np.eye(3)
        whiten = np.linalg.cholesky(np.linalg.inv(covariance)).T
        shift = -np.einsum("ij,j->i", whiten, mean)
        white = np.asarray(cv2.transform(lab, np.column_stack([whiten, shift])), np.float32)
        distance: Map = np.einsum("hwc,hwc->hw", white, white)
        return distance


def _most_alike(strips: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Three of four strips: without the one whose mean colour is farthest from the others'."""
    means = np.stack([strip.mean(axis=0) for strip in strips])
    distances = np.linalg.norm(means[:, None] - means, axis=2).sum(axis=1)
    odd = int(distances.argmax())
    return [strip for number, strip in enumerate(strips) if number != odd]
