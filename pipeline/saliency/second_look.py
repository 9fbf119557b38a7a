"""A second look of any source at the part of an image that its first map marks.

From coarse to fine, after Roth et al., arXiv 1704.06382, with the same source for both looks:

1. The region is where the first map, averaged to 56 x 56 cells, reaches its mean plus a standard
   deviation. Components that are small beside the largest one do not count.
2. The region's box grows by some cells. Where it is most of the image there is nothing to gain.
3. The source maps the crop at the image's full resolution. Inside the box the result is the mean of
   both maps, outside of it half of the first map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import check
from pipeline.saliency.interface import Image, Map, is_flat, to_grid
from pipeline.saliency.wrapper import Wrapper

CELLS = 56
"""Along a side of the grid that the region is found on: as many as a stored map has."""
FINER = 2
"""How many cells of the result lie along one of the grid, so that maps of 112 are served, too."""

Box = tuple[slice, slice]
"""Rows and columns of the grid."""


@dataclass(frozen=True, kw_only=True)
class SecondLook(Wrapper):
    """Another source's maps, corrected by its maps of crops.

    The map is the base's own where nothing stands out, where the crop or its map is flat, and where
    the box is most of the image.

    Attributes:
        threshold: standard deviations above the map's mean from which on a cell is of the region.
        least: share of the largest component's cells that a component must have.
        margin: cells, of 56 along a side, by which the region's box grows.
        most: largest share of the image that the box may be.
    """

    option: ClassVar[str] = "second_look"

    threshold: float = 1.0
    least: float = 0.1
    margin: int = 3
    most: float = 0.8

    def __post_init__(self) -> None:
        check(
            -5 <= self.threshold <= 5 and 0 <= self.least <= 1,
            "a second look wants second_look_threshold in -5..5 and second_look_least in 0..1, got "
            f"{self.threshold}, {self.least}",
        )
        check(
            0 <= self.margin < CELLS and 0 < self.most <= 1,
            f"a second look wants second_look_margin in 0..{CELLS - 1} and second_look_most above "
            f"0, up to 1, got {self.margin}, {self.most}",
        )

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute the base's maps, then those of all crops at once, and combine them."""
        maps = self.base(images)
        boxes: dict[int, Box] = {}
        crops: list[Image] = []
        for number, (image, coarse) in enumerate(zip(images, maps, strict=True)):
            box = self.box(coarse)
            if box is not None and not is_flat(crop := cut_out(image, box)):
                boxes[number] = box
                crops.append(crop)
        closer = self.base(crops) if crops else []
        for (number, box), fine in zip(boxes.items(), closer, strict=True):
            if float(np.ptp(fine)) > 0:
                maps[number] = combined(maps[number], fine, box)
        return maps

    def box(self, coarse: Map) -> Box | None:
        """The box to look at again, in cells of the grid; None where there is none."""
        cells = to_grid(coarse, CELLS)
        region = cells >= float(cells.mean()) + self.threshold * float(cells.std())
        _, _, stats, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
        objects = stats[1:]  # the first one is all that is not in the region
        if not len(objects):
            return None
        areas = objects[:, cv2.CC_STAT_AREA]
        left, top, wide, high = objects[areas >= self.least * areas.max()].T[:4]
        rows, columns = self._grown(top, top + high), self._grown(left, left + wide)
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / CELLS**2
        return (rows, columns) if share <= self.most else None

    def _grown(self, starts: NDArray[np.int32], stops: NDArray[np.int32]) -> slice:
        first, last = int(starts.min()) - self.margin, int(stops.max()) + self.margin
        return slice(max(0, first), min(CELLS, last))


def cut_out(image: Image, box: Box) -> Image:
    """The pixels of a box; one where it is smaller."""
    sides = []
    for side, pixels in zip(box, image.shape[:2], strict=True):
        first = min(round(side.start * pixels / CELLS), pixels - 1)
        sides.append(slice(first, max(first + 1, round(side.stop * pixels / CELLS))))
    return np.ascontiguousarray(image[sides[0], sides[1]])


def combined(coarse: Map, fine: Map, box: Box) -> Map:
    """Half the first map, plus half the second one inside the box: float32 [112, 112]."""
    whole = resized(coarse, CELLS * FINER, CELLS * FINER) / 2
    rows, columns = (slice(side.start * FINER, side.stop * FINER) for side in box)
    part = whole[rows, columns]
    part += resized(fine, *part.shape) / 2
    return whole


def resized(saliency: Map, height: int, width: int) -> Map:
    """A map at another size: areas averaged where it shrinks, or interpolated linearly."""
    shrinks = height * width < saliency.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(saliency, (width, height), interpolation=method), np.float32)
