"""COCO's annotations: one JSON file with `images`, `annotations` and `categories`."""

import json
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from training.evaluate.detection.annotations import Annotated, LabelledBox
from training.evaluate.detection.image_folders import image_folder


def read_coco(file: Path) -> tuple[list[Annotated], tuple[str, ...]]:
    """Read a file of instances.

    A box is `[x, y, width, height]`; a crowd (`iscrowd`) is ignored. Images without a box are
    background.

    Returns:
        The images with their boxes, and all names of classes, in the order of their ids.

    Raises:
        InputError: no such JSON; a box of an image or a category that the file does not have; an
            id or a name twice.
    """
    content = _loaded(file)
    categories = _by_id(content, "categories", file)
    names = [str(_value(one, "name", file)) for _, one in sorted(categories.items())]
    if len(set(names)) < len(names):
        raise InputError(f"{file}: two categories have one name")
    name_of = dict(zip(sorted(categories), names, strict=True))
    images = _by_id(content, "images", file)
    boxes: dict[int, list[LabelledBox]] = {number: [] for number in images}
    for one in content["annotations"]:
        image, category = _value(one, "image_id", file), _value(one, "category_id", file)
        if image not in images:
            raise InputError(
                f"{file}: annotation {one.get('id')} is of image {image!r}, which the file does "
                "not list: add the image or take the annotation away"
            )
        if category not in name_of:
            raise InputError(
                f"{file}: annotation {one.get('id')} is of an unknown class, category "
                f"{category!r}: wanted one of {sorted(name_of)}"
            )
        boxes[image].append(_box(one, name_of[category], file))
    files = [str(_value(one, "file_name", file)) for one in images.values()]
    folder = image_folder(file, files, "COCO")
    found = [
        Annotated(
            file=folder / name,
            source=str(file),
            width=int(_value(one, "width", file)),
            height=int(_value(one, "height", file)),
            boxes=tuple(boxes[number]),
        )
        for (number, one), name in zip(images.items(), files, strict=True)
    ]
    return found, tuple(names)


def _loaded(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as COCO's JSON: {error}") from error
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise InputError(f"{file} is no JSON of COCO's instances: it has no list {part!r}")
        if not all(isinstance(one, dict) for one in content[part]):
            raise InputError(f"{file}: {part!r} holds something other than objects")
    return dict(content)


def _by_id(content: dict[str, Any], part: str, file: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for one in content[part]:
        number = _value(one, "id", file)
        if number in found:
            raise InputError(f"{file}: two of its {part} have the id {number}")
        found[number] = one
    return found


def _value(one: dict[str, Any], key: str, file: Path) -> Any:  # noqa: ANN401  # whatever JSON holds
    if key not in one:
        raise InputError(f"{file}: {str(one)[:100]} has no {key!r}")
    return one[key]


def _box(one: dict[str, Any], name: str, file: Path) -> LabelledBox:
    given = _value(one, "bbox", file)
    try:
        x, y, wide, high = map(float, given)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{file}: annotation {one.get('id')} has the box {given!r}: wanted x, y, width, height"
        ) from error
    return LabelledBox(
        name=name,
        box=(x, y, x + wide, y + high),
        ignored=bool(one.get("iscrowd", 0)),
        outline=one.get("segmentation") or None,
    )
