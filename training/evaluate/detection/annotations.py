"""Images with boxes around their objects, as a reader found them, and the checks they must pass.

Shapes: N boxes of an image. A box is x0, y0, x1, y1 in pixels of the image, its upper left corner
(0, 0), its lower right one (width, height).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.core.errors import InputError

ROUNDING = 1.0
"""Pixels by which a box may leave its image: tools count from 0 or 1, and round. It is clipped."""
SIDEWAYS = range(5, 9)
"""EXIF orientations that change width and height about."""
EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True)
class LabelledBox:
    """One object of an image.

    Attributes:
        name: its class.
        box: x0, y0, x1, y1.
        ignored: a crowd, or an object that is difficult: neither learned from nor asked for.
        outline: COCO's polygons ([[x, y, x, y, ...], ...]) or run lengths; None: there is none.
    """

    name: str
    box: tuple[float, float, float, float]
    ignored: bool = False
    outline: Any = None


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """An image and its objects.

    Attributes:
        file: of the image.
        source: where the annotation stands, for messages.
        width: in pixels, as annotated.
        height: likewise.
        boxes: its objects; none: background only.
    """

    file: Path
    source: str
    width: int
    height: int
    boxes: tuple[LabelledBox, ...]


@dataclass(frozen=True)
class BoxSet:
    """Checked images with boxes.

    Attributes:
        root: as it was named.
        class_names: a label is an index into them.
        pictures: in the order of their names.
        num_left_out: image files that lie beside them without an annotation; they are not used.
    """

    root: Path
    class_names: tuple[str, ...]
    pictures: tuple[Annotated, ...]
    num_left_out: int = 0
    digest: str = field(init=False)
    """Of names, sizes and all that is annotated."""

    def __post_init__(self) -> None:
        told: list[Any] = [list(self.class_names)]
        for picture in self.pictures:
            boxes = [[box.name, box.box, box.ignored, box.outline] for box in picture.boxes]
            told.append([picture.file.name, picture.file.stat().st_size, boxes])
        digest = hashlib.sha256(json.dumps(told, default=repr).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)

    @property
    def num_images(self) -> int:
        """Images in it."""
        return len(self.pictures)

    @property
    def num_boxes(self) -> int:
        """Objects that are to be found: the ignored ones do not count."""
        return sum(not box.ignored for picture in self.pictures for box in picture.boxes)

    @property
    def num_empty(self) -> int:
        """Images without an object: they teach what background is."""
        return sum(not picture.boxes for picture in self.pictures)

    @property
    def has_outlines(self) -> bool:
        """Whether every object has an outline."""
        return self.num_boxes > 0 and all(
            box.outline is not None for picture in self.pictures for box in picture.boxes
        )

    def chosen(self, numbers: NDArray[np.int64]) -> "BoxSet":
        """The images of these numbers."""
        return replace(self, pictures=tuple(self.pictures[number] for number in numbers.tolist()))


def checked_set(
    root: Path,
    found: Sequence[Annotated],
    class_names: Sequence[str],
    *,
    num_left_out: int = 0,
) -> BoxSet:
    """Check what a reader found.

    Args:
        root: as it was named.
        found: images with their boxes.
        class_names: that a box may be of.
        num_left_out: see `BoxSet`.

    Raises:
        InputError: nothing there; an image that is missing, twice, unreadable or of another size;
            a box outside its image, without area or of an unknown class. Names the first one.
    """
    if all(box.ignored for picture in found for box in picture.boxes):
        raise InputError(
            f"{root} annotates no box (crowds and difficult objects do not count): wanted images "
            "with boxes around objects"
        )
    known = set(class_names)
    pictures: dict[Path, Annotated] = {}
    for picture in sorted(found, key=lambda one: one.file):
        if picture.file in pictures:
            raise InputError(f"{picture.source}: {picture.file} is annotated twice")
        _check_image(picture)
        boxes = tuple(_checked_box(box, picture, known) for box in picture.boxes)
        pictures[picture.file] = replace(picture, boxes=boxes)
    return BoxSet(root, tuple(class_names), tuple(pictures.values()), num_left_out)


def _check_image(picture: Annotated) -> None:
    if not picture.file.is_file():
        raise InputError(
            f"{picture.source} annotates {picture.file}, which is not there: put the image there "
            "or take the annotation away"
        )
    try:
        with Image.open(picture.file) as image:
            size = image.size
            if image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS:
                size = size[::-1]
    except Exception as error:  # whatever a decoder raises, the file is the reason
        raise InputError(f"{picture.file} cannot be read as an image: {error}") from error
    if size != (picture.width, picture.height):
        raise InputError(
            f"{picture.source} says {picture.width} x {picture.height} pixels, {picture.file} has "
            f"{size[0]} x {size[1]}: its boxes are of another image or another scale"
        )


def _checked_box(box: LabelledBox, picture: Annotated, known: set[str]) -> LabelledBox:
    """The box, clipped where rounding left the image."""
    corners = ", ".join(f"{value:g}" for value in box.box)
    where = f"{picture.source}: the box ({corners}) of {box.name!r} in {picture.file.name}"
    if box.name not in known:
        raise InputError(
            f"{where} is of an unknown class: wanted one of {', '.join(sorted(known))}"
        )
    x0, y0, x1, y1 = box.box
    if not all(map(math.isfinite, box.box)) or not (x1 > x0 and y1 > y0):
        raise InputError(f"{where} has no area: wanted x0 < x1 and y0 < y1; mend it or take it out")
    wide, high = picture.width, picture.height
    if min(x0, y0) < -ROUNDING or x1 > wide + ROUNDING or y1 > high + ROUNDING:
        raise InputError(f"{where} lies outside the image of {wide} x {high} pixels: mend it")
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(wide)), min(y1, float(high)))
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise InputError(f"{where} lies outside the image of {wide} x {high} pixels: mend it")
    return replace(box, box=clipped)
