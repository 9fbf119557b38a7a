"""Read annotations of boxes: Pascal VOC's XML files and COCO's JSON, and COCO's masks.

A box is x0, y0, x1, y1 in pixels of the image: its upper left corner is (0, 0), its lower right
one (width, height).
"""

import importlib
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, check

IMAGE_FOLDERS = ("JPEGImages", "images", ".")


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
    """An image and its objects, if any; width and height in pixels, as annotated in `source`."""

    file: Path
    source: Path
    width: int
    height: int
    boxes: tuple[LabelledBox, ...]


def read_voc(annotations: Path, names: Sequence[str] | None = None) -> list[Annotated]:
    """Read a folder of VOC's XML files, one an image: those of these names, or all.

    VOC counts pixels from 1 and includes the last one: xmin - 1 and xmax are the box's edges. A
    difficult object is ignored, as in VOC's own evaluation. InputError names a file that is
    missing or no VOC annotation.
    """
    files = [annotations / f"{name}.xml" for name in names or ()]
    found = []
    for file in sorted(annotations.glob("*.xml")) if names is None else files:
        check(file.exists(), f"{file} is not there: the image has no annotation")
        try:
            found.append(_voc_image(file))
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise InputError(f"{file} is no VOC annotation: {error}") from error
    return _in_folder(found, annotations, "VOC")


def _voc_image(file: Path) -> Annotated:
    tree = ElementTree.parse(file).getroot()
    boxes = []
    for element in tree.iterfind("object"):
        edges = ("xmin", "ymin", "xmax", "ymax")
        left, top, right, bottom = (_number(element, f"bndbox/{edge}") for edge in edges)
        box = LabelledBox(
            name=_text(element, "name"),
            box=(left - 1, top - 1, right, bottom),
            ignored=(element.findtext("difficult") or "0").strip() == "1",
        )
        boxes.append(box)
    return Annotated(
        file=Path(_text(tree, "filename")),
        source=file,
        width=round(_number(tree, "size/width")),
        height=round(_number(tree, "size/height")),
        boxes=tuple(boxes),
    )


def _text(tree: ElementTree.Element, path: str) -> str:
    text = (tree.findtext(path) or "").strip()
    if not text:
        raise ValueError(f"no <{path}>")
    return text


def _number(tree: ElementTree.Element, path: str) -> float:
    text = _text(tree, path)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"<{path}> is {text!r}, wanted a number") from error


def read_coco(file: Path) -> tuple[list[Annotated], tuple[str, ...]]:
    """Read COCO's JSON of instances: its images, and its class names in the order of their ids.

    A box is `[x, y, width, height]`; a crowd (`iscrowd`) is ignored. Images without a box are
    background. InputError names what is missing, occurs twice, or refers to what is not listed.
    """
    try:
        content = json.loads(file.read_text())
        images = {one["id"]: one for one in content["images"]}
        names = {one["id"]: str(one["name"]) for one in content["categories"]}
        annotations = list(content["annotations"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} cannot be read as COCO's JSON of instances ({error!r}): wanted lists of "
            "images, annotations and categories with their ids"
        ) from error
    counts = len(images), len(set(names.values()))
    check(
        counts == (len(content["images"]), len(content["categories"])),
        f"{file}: two images or two categories have one id or one name",
    )
    boxes: dict[Any, list[LabelledBox]] = {number: [] for number in images}
    found: list[Annotated] = []
    one: dict[str, Any]
    try:
        for one in annotations:
            x, y, wide, high = map(float, one["bbox"])
            box = LabelledBox(
                name=names[one["category_id"]],
                box=(x, y, x + wide, y + high),
                ignored=bool(one.get("iscrowd", 0)),
                outline=one.get("segmentation") or None,
            )
            boxes[one["image_id"]].append(box)
        for number, one in images.items():
            width, height, some = int(one["width"]), int(one["height"]), tuple(boxes[number])
            image = Path(one["file_name"])
            found.append(Annotated(file=image, source=file, width=width, height=height, boxes=some))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file}: {str(one)[:120]} cannot be used ({error!r}): wanted images with file_name, "
            "width and height, and annotations with the image_id and the category_id of an image "
            "and a category that the file lists, and bbox [x, y, width, height]"
        ) from error
    return _in_folder(found, file, "COCO"), tuple(names[number] for number in sorted(names))


def _in_folder(found: list[Annotated], annotations: Path, layout: str) -> list[Annotated]:
    """Complete the images' paths by the folder that holds most of them.

    It is looked for in `JPEGImages`, `images` and plainly, beside the annotations and one folder
    up; for COCO's `annotations/instances_train2017.json` in `train2017` as well.
    """
    names, beside = [*IMAGE_FOLDERS], annotations
    if annotations.is_file():
        names, beside = [annotations.stem.rpartition("_")[2], *names], annotations.parent
    folders = [above / name for above in (beside, beside.parent) for name in names]
    holds = [sum((folder / one.file).is_file() for one in found) for folder in folders]
    if found and not any(holds):
        raise InputError(
            f"none of the {len(found)} images that {annotations} annotates ({layout}) is there, "
            f"such as {found[0].file}: looked in {', '.join(map(str, folders))}"
        )
    folder = folders[holds.index(max(holds))]
    return [replace(one, file=folder / one.file) for one in found]


def coco_tools(part: str) -> Any:  # noqa: ANN401  (no types)
    """The module `mask`, `coco` or `cocoeval`; raises InputError where it is not installed."""
    try:
        return importlib.import_module(f"pycocotools.{part}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"detection needs pycocotools, which is not installed here ({error}): install the "
            "extra, salmask[detection]"
        ) from error


def outline_runs(outline: Any, height: int, width: int) -> dict[str, Any]:  # noqa: ANN401
    """Compressed run lengths of an object's outline, in an image of that size.

    InputError for an outline of another size, or in none of COCO's two forms.
    """
    tools = coco_tools("mask")
    try:
        if isinstance(outline, list):
            return dict(tools.merge(tools.frPyObjects(outline, height, width)))
        if list(outline["size"]) != [height, width]:
            size = outline["size"]
            raise ValueError(f"its image is {size} (height, width), not {height} x {width}")
        is_plain = isinstance(outline["counts"], list)
        return dict(tools.frPyObjects(outline, height, width) if is_plain else outline)
    except Exception as error:  # pycocotools raises whatever its C code met
        raise InputError(
            f"a mask cannot be read ({error}): wanted COCO's polygons or run lengths, got "
            f"{str(outline)[:80]}"
        ) from error
