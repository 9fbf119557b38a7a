"""Read annotations of boxes: Pascal VOC's XML files and COCO's JSON."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError
from training.evaluate.detection.annotations import Annotated, LabelledBox

IMAGE_FOLDERS = ("JPEGImages", "images", ".")


def read_voc(annotations: Path, names: Sequence[str] | None = None) -> list[Annotated]:
    """Read a folder of VOC's XML files, one an image.

    VOC counts pixels from 1 and includes the last one: xmin - 1 and xmax are the box's edges. A
    difficult object is ignored, as in VOC's own evaluation.

    Args:
        annotations: the folder.
        names: of the files that are read, without suffix; None: all of them.

    Raises:
        InputError: no such file, or one that is no VOC annotation; names it.
    """
    if names is None:
        files = sorted(annotations.glob("*.xml"))
    else:
        files = [annotations / f"{name}.xml" for name in names]
    found = []
    for file in files:
        try:
            tree = ElementTree.parse(file).getroot()
        except FileNotFoundError as error:
            raise InputError(f"{file} is not there: the image has no annotation") from error
        except (OSError, ElementTree.ParseError) as error:
            raise InputError(f"{file} is no VOC annotation: {error}") from error
        found.append((_text(tree, "filename", file), tree, file))
    folder = image_folder(annotations, [name for name, *_ in found], "VOC")
    return [
        Annotated(
            file=folder / name,
            source=str(file),
            width=round(_number(tree, "size/width", file)),
            height=round(_number(tree, "size/height", file)),
            boxes=tuple(_voc_box(thing, file) for thing in tree.iterfind("object")),
        )
        for name, tree, file in found
    ]


def read_names(file: Path) -> list[str]:
    """The names in an image list such as VOC's `ImageSets/Main/trainval.txt`.

    Raises:
        InputError: the list names nothing, or an image twice.
    """
    names = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    if not names:
        raise InputError(f"{file} names no images")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file} names {name} twice")
    return names


def _voc_box(thing: ElementTree.Element, file: Path) -> LabelledBox:
    left, top, right, bottom = (
        _number(thing, f"bndbox/{edge}", file) for edge in ("xmin", "ymin", "xmax", "ymax")
    )
    return LabelledBox(
        name=_text(thing, "name", file),
        box=(left - 1, top - 1, right, bottom),
        ignored=(thing.findtext("difficult") or "0").strip() == "1",
    )


def _text(tree: ElementTree.Element, path: str, file: Path) -> str:
    text = (tree.findtext(path) or "").strip()
    if not text:
        raise InputError(f"{file} is no VOC annotation: no <{path}>")
    return text


def _number(tree: ElementTree.Element, path: str, file: Path) -> float:
    text = _text(tree, path, file)
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{file}: <{path}> is {text!r}, wanted a number") from error


def read_coco(file: Path) -> tuple[list[Annotated], tuple[str, ...]]:
    """Read COCO's JSON of instances: `images`, `annotations` and `categories`.

    A box is `[x, y, width, height]`; a crowd (`iscrowd`) is ignored. Images without a box are
    background.

    Returns:
        The images with their boxes, and all names of classes, in the order of their ids.

    Raises:
        InputError: no such JSON; a box of an image or a category that the file does not have; an
            id or a name twice.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as COCO's JSON: {error}") from error
    images, categories = (_by_id(content, part, file) for part in ("images", "categories"))
    name_of = {k: str(*_values(one, file, "name")) for k, one in sorted(categories.items())}
    if len(set(name_of.values())) < len(name_of):
        raise InputError(f"{file}: two categories have one name")
    boxes: dict[Any, list[LabelledBox]] = {number: [] for number in images}
    for one in _listed(content, "annotations", file):
        number, category, corners = _values(one, file, "image_id", "category_id", "bbox")
        where = f"{file}: annotation {one.get('id')}"
        if number not in boxes:
            raise InputError(
                f"{where} is of image {number!r}, which the file does not list: add the image or "
                "take the annotation away"
            )
        if category not in name_of:
            raise InputError(
                f"{where} is of an unknown class, category {category!r}: wanted one of "
                f"{list(name_of)}"
            )
        try:
            x, y, wide, high = map(float, corners)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{where} has the box {corners!r}: wanted x, y, width, height"
            ) from error
        boxes[number].append(
            LabelledBox(
                name=name_of[category],
                box=(x, y, x + wide, y + high),
                ignored=bool(one.get("iscrowd", 0)),
                outline=one.get("segmentation") or None,
            )
        )
    found = [
        (number, *_values(one, file, "file_name", "width", "height"))
        for number, one in images.items()
    ]
    folder = image_folder(file, [str(name) for _, name, *_ in found], "COCO")
    return [
        Annotated(
            file=folder / str(name),
            source=str(file),
            width=int(width),
            height=int(height),
            boxes=tuple(boxes[number]),
        )
        for number, name, width, height in found
    ], tuple(name_of.values())


def _listed(content: Any, part: str, file: Path) -> list[Any]:  # noqa: ANN401
    listed = content.get(part) if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise InputError(f"{file} is no JSON of COCO's instances: it has no list {part!r}")
    return listed


def _by_id(content: Any, part: str, file: Path) -> dict[Any, Any]:  # noqa: ANN401
    found: dict[Any, Any] = {}
    for one in _listed(content, part, file):
        (number,) = _values(one, file, "id")
        if number in found:
            raise InputError(f"{file}: two of its {part} have the id {number}")
        found[number] = one
    return found


def _values(one: Any, file: Path, *keys: str) -> list[Any]:  # noqa: ANN401  # whatever JSON holds
    for key in keys:
        if not isinstance(one, dict) or key not in one:
            raise InputError(f"{file}: {str(one)[:100]} has no {key!r}")
    return [one[key] for key in keys]


def image_folder(annotations: Path, names: Sequence[str], layout: str) -> Path:
    """The folder that holds most of the images.

    Looked for in `JPEGImages`, `images` and plainly, beside the annotations and one folder up; for
    COCO's `annotations/instances_train2017.json` in `train2017` as well.

    Args:
        annotations: the folder or the file of the annotations.
        names: of the images, as annotated.
        layout: of the annotations, for the message.

    Raises:
        InputError: none of these folders holds any.
    """
    is_folder = annotations.is_dir()
    beside = annotations if is_folder else annotations.parent
    usual = IMAGE_FOLDERS if is_folder else (annotations.stem.rpartition("_")[2], *IMAGE_FOLDERS)
    folders = [folder / name for folder in (beside, beside.parent) for name in usual]
    holds = {folder: sum((folder / name).is_file() for name in names) for folder in folders}
    best = max(folders, key=lambda folder: holds[folder])
    if names and not holds[best]:
        raise InputError(
            f"none of the {len(names)} images that {annotations} annotates ({layout}) is there, "
            f"such as {names[0]}: looked in {', '.join(map(str, folders))}"
        )
    return best
