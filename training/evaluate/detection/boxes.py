"""Sets of images with boxes, checked: one that a path names, a pair, or a split of one."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.errors import InputError, check
from pipeline.core.image_names import has_image_suffix
from training.evaluate.detection.readers import Annotated, LabelledBox, read_coco, read_voc
from training.randomness.draws import sample_seeds

ANNOTATIONS = "Annotations"
ROUNDING = 1.0
"""Pixels by which a box may leave its image and is clipped: tools count from 0 or 1, and round."""
EXIF_ORIENTATION, SIDEWAYS = 0x0112, range(5, 9)
"""The EXIF tag, and its values that swap width and height."""


@dataclass(frozen=True)
class BoxSet:
    """Checked images with boxes.

    Attributes:
        root: as it was named.
        class_names: a label is an index into them.
        pictures: in the order of their names.
        num_left_out: image files beside them without an annotation; they are not used.
    """

    root: Path
    class_names: tuple[str, ...]
    pictures: tuple[Annotated, ...]
    num_left_out: int = 0

    @cached_property
    def digest(self) -> str:
        """Of names, sizes and annotations."""
        content: list[Any] = [list(self.class_names)]
        for picture in self.pictures:
            boxes = [[box.name, box.box, box.ignored, box.outline] for box in picture.boxes]
            content.append([picture.file.name, picture.file.stat().st_size, boxes])
        return hashlib.sha256(json.dumps(content, default=repr).encode()).hexdigest()

    @property
    def num_images(self) -> int:
        """Images in it."""
        return len(self.pictures)

    @property
    def num_boxes(self) -> int:
        """Objects to find, without the ignored ones."""
        return sum(not box.ignored for picture in self.pictures for box in picture.boxes)

    @property
    def has_outlines(self) -> bool:
        """Whether every object has an outline."""
        outlines = [box.outline for picture in self.pictures for box in picture.boxes]
        return self.num_boxes > 0 and None not in outlines


def open_boxes(root: Path, classes: Sequence[str] = ()) -> BoxSet:
    """Open annotations by what the path is, and check them; InputError names the first bad one.

    Args:
        root: a COCO file (`.json`); VOC's folder of XML files; VOC's image list
            (`ImageSets/Main/NAME.txt`); or a folder that holds one of the first two.
        classes: names that may occur; empty: those of COCO's file, or all that occur.
    """
    path, names = _annotations_at(root), tuple(classes)
    if path.suffix == ".json":
        found, known = read_coco(path)
        names = names or known
    elif path.suffix == ".txt":
        listed = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        check(bool(listed), f"{path} names no images")
        above = [folder for up in path.parents if (folder := up / ANNOTATIONS).is_dir()]
        check(bool(above), f"no folder {ANNOTATIONS} above the image list {path}")
        found = read_voc(above[0], listed)
    else:
        found = read_voc(path)
    boxes = [box for one in found for box in one.boxes]
    check(
        not all(box.ignored for box in boxes),
        f"{root} annotates no box (crowds and difficult objects do not count): wanted images with "
        "boxes around objects",
    )
    names = names or tuple(sorted({box.name for box in boxes}))
    (file, times), *_ = Counter(one.file for one in found).most_common(1)
    check(times == 1, f"{path}: {file} is annotated twice")
    pictures = tuple(_checked(one, names) for one in sorted(found, key=lambda one: one.file))
    num_left_out = 0
    if path.suffix != ".txt":  # a list leaves out images on purpose
        files = {one.file for one in found}
        beside = {file for folder in {file.parent for file in files} for file in folder.iterdir()}
        num_left_out = sum(has_image_suffix(file.name) for file in beside - files)
    return BoxSet(root, names, pictures, num_left_out)


def _annotations_at(root: Path) -> Path:
    """The JSON file, the image list or the folder of XML files that a path means."""
    if root.is_file() and root.suffix in (".json", ".txt"):
        return root
    check(
        root.is_dir(),
        f"{root} is no folder, COCO file (.json) or VOC image list (.txt) of images with boxes",
    )
    if any(root.glob("*.xml")):
        return root
    choices = sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    choices += [root / ANNOTATIONS] if any(root.glob(f"{ANNOTATIONS}/*.xml")) else []
    found = f"has {' and '.join(map(str, choices))}: name one" if choices else "has neither"
    check(
        len(choices) == 1,
        f"{root} {found} (wanted {ANNOTATIONS}/*.xml of VOC, or one .json of COCO)",
    )
    return choices[0]


def _checked(picture: Annotated, class_names: Sequence[str]) -> Annotated:
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
    check(
        size == (picture.width, picture.height),
        f"{picture.source} says {picture.width} x {picture.height} pixels, {picture.file} has "
        f"{size[0]} x {size[1]}: its boxes are of another image or another scale",
    )
    boxes = tuple(_checked_box(box, picture, class_names) for box in picture.boxes)
    return replace(picture, boxes=boxes)


def _checked_box(box: LabelledBox, picture: Annotated, class_names: Sequence[str]) -> LabelledBox:
    corners = ", ".join(f"{value:g}" for value in box.box)
    where = f"{picture.source}: the box ({corners}) of {box.name!r} in {picture.file.name}"
    known = ", ".join(sorted(class_names))
    check(box.name in class_names, f"{where} is of an unknown class: wanted one of {known}")
    x0, y0, x1, y1 = box.box
    check(
        all(map(math.isfinite, box.box)) and x1 > x0 and y1 > y0,
        f"{where} has no area: wanted x0 < x1 and y0 < y1; mend it or take it out",
    )
    wide, high = float(picture.width), float(picture.height)
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, wide), min(y1, high))
    moved = max(abs(a - b) for a, b in zip(box.box, clipped, strict=True))
    check(
        moved <= ROUNDING and clipped[0] < clipped[2] and clipped[1] < clipped[3],
        f"{where} lies outside the image of {wide:g} x {high:g} pixels: mend it",
    )
    return replace(box, box=clipped)


def box_pair(
    train_root: Path,
    val_root: Path,
    *,
    classes: Sequence[str] = (),
    val_share: float = 0.0,
    seed: int = 0,
) -> tuple[BoxSet, BoxSet]:
    """Open two sets whose labels mean the same; split one that is named twice.

    Raises:
        InputError: other class names; the same images twice; a share without a set to split, or
            a set to split without a share; and what `open_boxes` raises.
    """
    if train_root == val_root:
        return _split(open_boxes(train_root, classes), val_share, seed=seed)
    check(
        not val_share,
        f"detection.val_share {val_share:g} splits one set, but --train and --val name two: name "
        "one twice, or leave the share away",
    )
    train, val = open_boxes(train_root, classes), open_boxes(val_root, classes)
    differing = sorted(set(train.class_names) ^ set(val.class_names)) or ["their order"]
    check(
        train.class_names == val.class_names,
        f"the classes of {train_root} and {val_root} differ ({', '.join(differing)}): a label "
        "would mean two things; name all of them with --detection.classes",
    )
    learned, scored = ({one.file.resolve() for one in images.pictures} for images in (train, val))
    first = min(learned & scored, default=train.pictures[0].file)
    check(
        not learned & scored and train.digest != val.digest,
        f"{train_root} and {val_root} share images, such as {first.name}: name other images to "
        "validate on",
    )
    return train, val


def _split(images: BoxSet, val_share: float, *, seed: int) -> tuple[BoxSet, BoxSet]:
    """Split a set by chance: the same images for every checkpoint and every machine."""
    check(
        val_share > 0,
        f"--train and --val name the same images, {images.root}: give --detection.val-share 0.2 "
        "to split them, or name two sets",
    )
    order = np.argsort(sample_seeds(seed, 0, np.arange(images.num_images)), kind="stable")
    num_val = round(val_share * images.num_images)
    train, val = (
        replace(images, pictures=tuple(images.pictures[number] for number in np.sort(part)))
        for part in (order[num_val:], order[:num_val])
    )
    check(
        train.num_boxes > 0 and val.num_boxes > 0,
        f"detection.val_share {val_share:g} of {images.num_images} images leaves "
        f"{train.num_boxes} boxes to learn from and {val.num_boxes} to be scored on",
    )
    return train, val
