"""Images with boxes around their objects, and the checks that they must pass.

A box is x0, y0, x1, y1 in pixels of the image: its upper left corner is (0, 0), its lower right
one (width, height).
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.core.errors import InputError

ROUNDING = 1.0
"""Pixels by which a box may leave its image and is clipped: tools count from 0 or 1, and round."""
EXIF_ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)
"""The EXIF tag, and its values that swap width and height."""


@dataclass(frozen=True, kw_only=True)
class LabelledBox:
    """One object of an image.

    Attributes:
        name: its class.
        box: x0, y0, x1, y1.
        ignored: a crowd or a difficult object: neither learned from nor scored.
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
        source: file of the annotation, for messages.
        width: in pixels, as annotated.
        height: likewise.
        boxes: its objects; none: background only.
    """

    file: Path
    source: Path
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
        num_left_out: image files beside them without an annotation; they are not used.
        digest: of names, sizes and annotations.
    """

    root: Path
    class_names: tuple[str, ...]
    pictures: tuple[Annotated, ...]
    num_left_out: int = 0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        content: list[Any] = [list(self.class_names)]
        for picture in self.pictures:
            boxes = [[box.name, box.box, box.ignored, box.outline] for box in picture.boxes]
            content.append([picture.file.name, picture.file.stat().st_size, boxes])
        digest = hashlib.sha256(json.dumps(content, default=repr).encode()).hexdigest()
        object.__setattr__(self, "digest", digest)

    @property
    def num_images(self) -> int:
        """Images in it."""
        return len(self.pictures)

    @property
    def num_boxes(self) -> int:
        """Objects to find, without the ignored ones."""
        return sum(not box.ignored for picture in self.pictures for box in picture.boxes)

    @property
    def num_empty(self) -> int:
        """Images without an object, which teach what background is."""
        return sum(not picture.boxes for picture in self.pictures)

    @property
    def has_outlines(self) -> bool:
        """Whether every object has an outline."""
        outlines = [box.outline for picture in self.pictures for box in picture.boxes]
        return self.num_boxes > 0 and None not in outlines


def checked(picture: Annotated, class_names: Sequence[str]) -> Annotated:
    """The image with its boxes clipped to it; InputError names what does not fit."""
    try:
        with Image.open(picture.file) as image:
            size = image.size
            if image.getexif().get(EXIF_ORIENTATION) in SIDEWAYS:
                size = size[::-1]
    except Exception as error:  # a decoder can raise anything
        raise InputError(
            f"{picture.source} annotates {picture.file}, which cannot be read as an image "
            f"({error}): mend it or take the annotation away"
        ) from error
    if size != (picture.width, picture.height):
        raise InputError(
            f"{picture.source} says {picture.width} x {picture.height} pixels, {picture.file} has "
            f"{size[0]} x {size[1]}: its boxes are of another image or another scale"
        )
    return replace(
        picture, boxes=tuple(_checked_box(box, picture, class_names) for box in picture.boxes)
    )


def _checked_box(box: LabelledBox, picture: Annotated, class_names: Sequence[str]) -> LabelledBox:
    corners = ", ".join(f"{value:g}" for value in box.box)
    where = f"{picture.source}: the box ({corners}) of {box.name!r} in {picture.file.name}"
    if box.name not in class_names:
        raise InputError(
            f"{where} is of an unknown class: wanted one of {', '.join(sorted(class_names))}"
        )
    x0, y0, x1, y1 = box.box
    if not all(map(math.isfinite, box.box)) or not (x1 > x0 and y1 > y0):
        raise InputError(f"{where} has no area: wanted x0 < x1 and y0 < y1; mend it or take it out")
    wide, high = float(picture.width), float(picture.height)
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, wide), min(y1, high))
    moved = max(abs(a - b) for a, b in zip(box.box, clipped, strict=True))
    if moved > ROUNDING or clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise InputError(f"{where} lies outside the image of {wide:g} x {high:g} pixels: mend it")
    return replace(box, box=clipped)
