"""VOC and COCO annotations, pairs and splits of them, and everything that can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from tests.training.evaluate.detection.cases import (
    HEIGHT,
    NAMES,
    WIDTH,
    coco_content,
    drawn,
    voc_object,
    voc_xml,
    write_coco,
    write_voc,
)
from training.evaluate.detection.boxes import BoxSet, box_pair, open_boxes

FIRST = "Annotations/image0_00.xml"


def refused(message: str, root: Path, *classes: str) -> None:
    with pytest.raises(InputError, match=message):
        open_boxes(root, classes)


def open_changed(root: Path, change: Callable[[dict[str, Any]], object]) -> BoxSet:
    """The COCO set in a folder, its JSON changed."""
    file = root / "instances.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return open_boxes(root)


def test_voc_and_coco_say_the_same(tmp_path: Path) -> None:
    images = drawn(5)
    voc = open_boxes(write_voc(tmp_path / "voc", images))
    root = write_coco(tmp_path / "coco", images)
    coco = open_boxes(root)
    assert voc.class_names == coco.class_names == NAMES
    for one, two, made in zip(voc.pictures, coco.pictures, images, strict=True):
        assert one.boxes == two.boxes
        assert (one.width, one.height) == (WIDTH, HEIGHT)
        expected = [(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in made.objects]
        assert [(box.name, box.box) for box in one.boxes] == expected
    assert voc.digest == coco.digest, "the digest is of names, sizes and boxes"
    assert (voc.num_images, voc.num_boxes, voc.num_left_out) == (5, 6, 0)
    moved = open_changed(root, lambda content: content["annotations"][0].update(bbox=[2, 3, 4, 5]))
    assert moved.digest != coco.digest


def test_paths_that_mean_the_same(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", drawn(4))
    digest = open_boxes(root).digest
    assert open_boxes(root / "Annotations").digest == digest
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("image0_01\nimage0_00  1\n")
    chosen = open_boxes(lists / "train.txt")
    assert [one.file.stem for one in chosen.pictures] == ["image0_00", "image0_01"]
    assert chosen.num_left_out == 0, "a list leaves out on purpose"
    (root / "Annotations" / "image0_02.xml").unlink()
    found = open_boxes(root)
    assert (found.num_images, found.num_left_out) == (3, 1)

    coco = write_coco(tmp_path / "coco", drawn(4))
    assert open_boxes(coco).digest == open_boxes(coco / "instances.json").digest == digest
    (coco / "annotations").mkdir()
    (coco / "instances.json").rename(coco / "annotations" / "instances_train2017.json")
    (coco / "images").rename(coco / "train2017")
    assert open_boxes(coco).digest == digest


def test_difficult_and_crowd_are_ignored_objects(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", drawn(2))
    objects = voc_object("square", 2, 2, 9, 9) + voc_object("square", 11, 2, 19, 9, difficult=1)
    (voc / FIRST).write_text(voc_xml("image0_00.png", objects))
    assert [box.ignored for box in open_boxes(voc).pictures[0].boxes] == [False, True]
    coco = write_coco(tmp_path / "coco", drawn(3))
    found = open_changed(coco, lambda content: content["annotations"][0].update(iscrowd=1))
    assert [box.ignored for box in found.pictures[0].boxes] == [True]
    assert found.num_boxes == 2, "the ignored one does not count"
    with pytest.raises(InputError, match=r"annotates no box \(crowds and difficult objects"):
        open_changed(coco, lambda content: content["annotations"].__delitem__(slice(1, None)))


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((0, 0, WIDTH + 1, HEIGHT + 0.5), (0, 0, WIDTH, HEIGHT)),  # off by a rounding: clipped
        ((5, 5, WIDTH + 5, 20), r"box \(4, 4, 69, 20\).*outside the image of 64 x 48"),
        ((5, 5, 20, HEIGHT + 3), "outside the image"),
        ((-3, 5, 20, 20), "outside the image"),
        ((WIDTH + 1.5, 5, WIDTH + 2, 20), "outside the image"),
        ((10, 10, 9, 20), "no area"),
        ((10, 20, 20, 10), "no area"),
        ((float("nan"), 5, 20, 20), "no area"),
    ],
)
def test_boxes_and_their_image(
    tmp_path: Path, edges: tuple[float, ...], expected: str | tuple[float, ...]
) -> None:
    root = write_voc(tmp_path, drawn(2))
    (root / FIRST).write_text(voc_xml("image0_00.png", voc_object("square", *edges)))
    if isinstance(expected, str):
        refused(f"{FIRST}.*{expected}", root)
    else:
        assert open_boxes(root).pictures[0].boxes[0].box == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", "image0_00.xml is no VOC annotation"),
        ("image0_00.png", "gone.png", "annotates .*gone.png, which cannot be read as an image"),
        ("image0_00.png", "image0_01.png", "image0_01.png is annotated twice"),
        ("<width>64", "<width>wide", "<size/width> is 'wide', wanted a number"),
        ("<width>64", "<width>128", "says 128 x 48 pixels, .* has 64 x 48"),
        ("xmin>", "min>", "no <bndbox/xmin>"),
    ],
)
def test_bad_voc(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = write_voc(tmp_path, drawn(3))
    (root / FIRST).write_text((root / FIRST).read_text().replace(old, new))
    refused(message, root)


def test_bad_images_and_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", drawn(3))
    refused("unknown class: wanted one of square", root, "square")
    for text, message in (
        ("", "names no images"),
        ("image0_00\nimage0_00\n", "image0_00.png is annotated twice"),
        ("nowhere\n", "nowhere.xml is not there: the image has no annotation"),
    ):
        (root / "list.txt").write_text(text)
        refused(message, root / "list.txt")
    (tmp_path / "list.txt").write_text("image0_00")
    refused("no folder Annotations above", tmp_path / "list.txt")
    (root / "JPEGImages" / "image0_01.png").write_bytes(b"no image")
    refused("image0_01.png, which cannot be read as an image", root)


UNUSABLE = "cannot be used .*annotations with the image_id and the category_id"
BROKEN: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("wanted lists of images, annotations and categories", lambda c: c.pop("categories")),
    ("wanted lists of images", lambda c: c.update(images=[3])),
    (f"'category_id': 7.*{UNUSABLE}", lambda c: c["annotations"][0].update(category_id=7)),
    (f"'image_id': 99.*{UNUSABLE}", lambda c: c["annotations"][0].update(image_id=99)),
    (UNUSABLE, lambda c: c["annotations"][0].update(bbox=[1, 2, 3])),
    (UNUSABLE, lambda c: c["annotations"][0].pop("bbox")),
    ("have one id or one name", lambda c: c["images"][1].update(id=1)),
    ("have one id or one name", lambda c: c["categories"][1].update(name="bar")),
    ("wanted images with file_name, width and height", lambda c: c["images"][0].pop("width")),
    ("no area", lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10])),
    ("annotates no box", lambda c: c.update(annotations=[])),
]


@pytest.mark.parametrize(("message", "change"), BROKEN)
def test_bad_coco(tmp_path: Path, message: str, change: Callable[[dict[str, Any]], object]) -> None:
    with pytest.raises(InputError, match=f"instances.json.*{message}|{message}"):
        open_changed(write_coco(tmp_path, drawn(3)), change)


def test_bad_places(tmp_path: Path) -> None:
    refused("is no folder, COCO file", tmp_path / "nowhere")
    refused("has neither", tmp_path)
    (tmp_path / "a.json").write_text("{")
    refused("cannot be read as COCO's JSON", tmp_path)
    write_voc(tmp_path, drawn(2))
    refused(r"a\.json and .*Annotations: name one", tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.json").write_text(json.dumps(coco_content(drawn(2, seed=9))))
    refused(r"none of the 2 images .*image9_00.png: looked in", tmp_path / "far" / "b.json")


def test_a_split_is_seeded_and_whole(tmp_path: Path) -> None:
    root = write_voc(tmp_path, drawn(10))
    train, val = box_pair(root, root, val_share=0.3, seed=4)
    assert (train.num_images, val.num_images) == (7, 3)
    names = {one.file.name for part in (train, val) for one in part.pictures}
    assert len(names) == 10
    assert train.class_names == val.class_names == NAMES
    again = box_pair(root, root, val_share=0.3, seed=4)
    assert (again[0].digest, again[1].digest) == (train.digest, val.digest)
    assert box_pair(root, root, val_share=0.3, seed=5)[1].digest != val.digest
    with pytest.raises(InputError, match=r"give --detection.val-share 0.2"):
        box_pair(root, root)
    with pytest.raises(InputError, match="0 to be scored on"):
        box_pair(root, root, val_share=0.01)


def test_pairs(tmp_path: Path) -> None:
    train, val = (write_voc(tmp_path / n, drawn(4, seed=i)) for i, n in enumerate(("a", "b")))
    one, two = box_pair(train, val)
    assert one.class_names == two.class_names
    with pytest.raises(InputError, match="splits one set, but --train and --val name two"):
        box_pair(train, val, val_share=0.5)
    with pytest.raises(InputError, match=r"share images, such as image0_00.png"):
        box_pair(train, train / "Annotations")
    file = val / "Annotations" / "image1_00.xml"
    file.write_text(file.read_text().replace("square", "disc"))
    with pytest.raises(InputError, match=r"classes of .* differ \(disc\).*--detection.classes"):
        box_pair(train, val)
    names = ("square", "bar", "disc")
    one, two = box_pair(train, val, classes=names)
    assert one.class_names == two.class_names == names


def test_exif_orientation_counts(tmp_path: Path) -> None:
    root = write_coco(tmp_path, drawn(2))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.new("RGB", (HEIGHT, WIDTH))
    lying.save(root / "images" / "image0_00.png", exif=exif)
    assert open_boxes(root).num_images == 2


@pytest.mark.parametrize(
    ("name", "images", "boxes"), [("detection_kangaroo", 163, 263), ("detection_coco128", 128, 929)]
)
def test_xml_and_json_agree(shared_data: Path, name: str, images: int, boxes: int) -> None:
    voc, coco = (
        open_boxes(shared_data / name / part) for part in ("Annotations", "instances.json")
    )
    assert (coco.num_images, coco.num_boxes) == (images, boxes)
    assert coco.num_left_out == voc.num_left_out == 0
    of_file = {one.file.name: one for one in voc.pictures}
    for one in coco.pictures:
        other = of_file[one.file.name]
        assert [box.name for box in one.boxes] == [box.name for box in other.boxes]
        if one.boxes:
            # VOC counts whole pixels.
            found, whole = (np.array([box.box for box in some.boxes]) for some in (one, other))
            np.testing.assert_allclose(found, whole, atol=1.01)
