"""A second look of a source at the part of an image that its first map marks.

From coarse to fine, after Roth et al., arXiv 1704.06382: the region is where the first map is high
on 56 x 56 cells; the same source maps the region's box at the image's full resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from pipeline.core.errors import check
from pipeline.saliency.interface import Image, Map, Wrapper, is_flat, resize, to_grid
from pipeline.shardset.schema import SALIENCY_SIZE

Box = tuple[slice, slice]
"""Rows and columns of a map of 56 x 56 cells."""


@dataclass(frozen=True, kw_only=True)
class SecondLook(Wrapper):
    """Inside the box the mean of both maps, outside of it half of the first one.

    The map is the first one itself where nothing stands out, where the crop or its map is flat, and
    where the box is most of the image.

    Attributes:
        threshold: standard deviations above the map's mean from which on a cell is of the region.
        least: share of the largest component's cells that a component must have to count.
        margin: cells by which the region's box grows.
        most: largest share of the image that the box may be.
    """

    option: ClassVar[str] = "second_look"

    threshold: float = 1.0
    least: float = 0.1
    margin: int = 3
    most: float = 0.8

    def __post_init__(self) -> None:
        fits = -5 <= self.threshold <= 5 and 0 <= self.least <= 1
        check(
            fits and 0 <= self.margin < SALIENCY_SIZE and 0 < self.most <= 1,
            "a second look wants second_look_threshold in -5..5, second_look_least in 0..1, "
            f"second_look_margin in 0..{SALIENCY_SIZE - 1} and second_look_most above 0, up to 1, "
            f"got {self.threshold}, {self.least}, {self.margin}, {self.most}",
        )

    def __call__(self, images: Sequence[Image]) -> list[Map]:
        """Compute the first maps, then those of all crops at once, and combine them."""
        maps = self.base(images)
        boxes = [self.box(coarse) for coarse in maps]
        crops = {
            number: crop
            for number, (image, box) in enumerate(zip(images, boxes, strict=True))
            if box is not None and (crop := cut_out(image, box)).size and not is_flat(crop)
        }
        closer = self.base(list(crops.values())) if crops else []
        for number, fine in zip(crops, closer, strict=True):
            box = boxes[number]
            if box is not None and float(np.ptp(fine)) > 0:
                whole = resize(maps[number], (SALIENCY_SIZE, SALIENCY_SIZE))
                whole *= 0.5
                whole[box] += resize(fine, whole[box].shape) / 2
                maps[number] = whole
        return maps

    def box(self, coarse: Map) -> Box | None:
        """The part to look at again; None where nothing stands out, or the box is too large."""
        cells = to_grid(coarse, SALIENCY_SIZE)
        region = cells >= float(cells.mean()) + self.threshold * float(cells.std())
        _, _, found, _ = cv2.connectedComponentsWithStats(region.astype(np.uint8), connectivity=8)
        areas = found[1:, cv2.CC_STAT_AREA]  # the first one is all that is not in the region
        if not areas.size:
            return None
        large = found[1:][areas >= self.least * areas.max()]
        first_2 = np.maximum(large[:, 1::-1].min(axis=0) - self.margin, 0)  # top and left
        last_2 = (large[:, 1::-1] + large[:, 3:1:-1]).max(axis=0) + self.margin
        rows, columns = map(slice, first_2.tolist(), last_2.clip(max=SALIENCY_SIZE).tolist())
        share = (rows.stop - rows.start) * (columns.stop - columns.start) / SALIENCY_SIZE**2
        return (rows, columns) if share <= self.most else None


def cut_out(image: Image, box: Box) -> Image:
    """The pixels of a box; none where an image has fewer pixels than cells."""
    rows, columns = (
        slice(round(side.start * pixels / SALIENCY_SIZE), round(side.stop * pixels / SALIENCY_SIZE))
        for side, pixels in zip(box, image.shape[:2], strict=True)
    )
    return np.ascontiguousarray(image[rows, columns])
