"""Pascal VOC's annotations: one XML file an image, below `Annotations`, images in `JPEGImages`."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import InputError
from training.evaluate.detection.annotations import Annotated, LabelledBox
from training.evaluate.detection.image_folders import image_folder

ANNOTATIONS = "Annotations"


def read_voc(annotations: Path, names: Sequence[str] | None = None) -> list[Annotated]:
    """Read a folder of XML files.

    VOC counts pixels from 1 and includes the last one: xmin - 1 and xmax are the box's edges. An
    object that is marked as difficult is ignored, as VOC's own evaluation does.

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
    if not files:
        raise InputError(f"{annotations} has no XML files: wanted VOC's annotations")
    parsed = [(file, _parsed(file)) for file in files]
    images = image_folder(
        annotations, [_text(tree, "filename", file) for file, tree in parsed], "VOC"
    )
    return [_annotated(file, tree, images) for file, tree in parsed]


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


def _parsed(file: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(file).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there: the image has no annotation") from error
    except (OSError, ElementTree.ParseError) as error:
        raise InputError(f"{file} is no VOC annotation: {error}") from error


def _annotated(file: Path, tree: ElementTree.Element, images: Path) -> Annotated:
    return Annotated(
        file=images / _text(tree, "filename", file),
        source=str(file),
        width=round(_number(tree, "size/width", file)),
        height=round(_number(tree, "size/height", file)),
        boxes=tuple(_box(thing, file) for thing in tree.iterfind("object")),
    )


def _box(thing: ElementTree.Element, file: Path) -> LabelledBox:
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
