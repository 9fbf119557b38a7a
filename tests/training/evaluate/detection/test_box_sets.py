"""VOC and COCO annotations, pairs and splits of them, and everything that can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from training.evaluate.detection.box_sets import box_pair, open_boxes, split


def test_voc_and_coco_say_the_same(tmp_path: Path) -> None:
    images = drawn(5)
    voc, coco = (
        open_boxes(write(tmp_path / name, images))
        for name, write in (("voc", write_voc), ("coco", write_coco))
    )
    assert voc.class_names == coco.class_names == NAMES
    for one, two, made in zip(voc.pictures, coco.pictures, images, strict=True):
        assert one.boxes == two.boxes
        assert (one.width, one.height) == (WIDTH, HEIGHT)
        expected = [(name, (x, y, x + w, y + h)) for name, (x, y, w, h) in made.objects]
        assert [(box.name, box.box) for box in one.boxes] == expected
    assert voc.digest == coco.digest, "the digest is of names, sizes and boxes"
    assert (voc.num_images, voc.num_boxes, voc.num_empty, voc.num_left_out) == (5, 6, 1, 0)


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

    coco = write_coco(tmp_path / "coco", drawn(4))
    digest = open_boxes(coco).digest
    assert open_boxes(coco / "instances.json").digest == digest
    (coco / "annotations").mkdir()
    (coco / "instances.json").rename(coco / "annotations" / "instances_train2017.json")
    (coco / "images").rename(coco / "train2017")
    assert open_boxes(coco).digest == digest


def test_the_digest_sees_a_box_that_moved(tmp_path: Path) -> None:
    root = write_coco(tmp_path, drawn(4))
    before = open_boxes(root).digest
    content = json.loads((root / "instances.json").read_text())
    content["annotations"][0]["bbox"][0] += 1
    (root / "instances.json").write_text(json.dumps(content))
    assert open_boxes(root).digest != before


def test_an_image_without_annotation_is_left_out_and_counted(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", drawn(4))
    (root / "Annotations" / "image0_02.xml").unlink()
    found = open_boxes(root)
    assert (found.num_images, found.num_left_out) == (3, 1)


def test_difficult_and_crowd_are_ignored_objects(tmp_path: Path) -> None:
    voc = write_voc(tmp_path / "voc", drawn(2))
    objects = voc_object("square", 2, 2, 9, 9) + voc_object("square", 11, 2, 19, 9, difficult=1)
    (voc / "Annotations" / "image0_00.xml").write_text(voc_xml("image0_00.png", objects))
    assert [box.ignored for box in open_boxes(voc).pictures[0].boxes] == [False, True]
    coco = write_coco(tmp_path / "coco", drawn(3))
    content = json.loads((coco / "instances.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    (coco / "instances.json").write_text(json.dumps(content))
    found = open_boxes(coco)
    assert [box.ignored for box in found.pictures[0].boxes] == [True]
    assert found.num_boxes == 2, "the ignored one does not count"
    content["annotations"] = content["annotations"][:1]
    (coco / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"annotates no box \(crowds and difficult objects"):
        open_boxes(coco)


def test_a_box_off_by_a_rounding_is_clipped(tmp_path: Path) -> None:
    root = write_voc(tmp_path, drawn(2))
    edges = (0, 0, WIDTH + 1, HEIGHT + 0.5)
    (root / "Annotations" / "image0_00.xml").write_text(
        voc_xml("image0_00.png", voc_object("square", *edges))
    )
    assert open_boxes(root).pictures[0].boxes[0].box == (0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((5, 5, WIDTH + 5, 20), r"box \(4, 4, 69, 20\).*outside the image of 64 x 48"),
        ((5, 5, 20, HEIGHT + 3), "outside the image"),
        ((-3, 5, 20, 20), "outside the image"),
        ((WIDTH + 1.5, 5, WIDTH + 2, 20), "outside the image"),
        ((10, 10, 9, 20), "no area"),
        ((10, 20, 20, 10), "no area"),
        ((float("nan"), 5, 20, 20), "no area"),
    ],
)
def test_bad_boxes(tmp_path: Path, edges: tuple[float, ...], message: str) -> None:
    root = write_voc(tmp_path, drawn(2))
    file = root / "Annotations" / "image0_00.xml"
    file.write_text(voc_xml("image0_00.png", voc_object("square", *edges)))
    with pytest.raises(InputError, match=message) as raised:
        open_boxes(root)
    assert str(file) in str(raised.value)


def test_bad_voc(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", drawn(3))
    annotations = root / "Annotations"
    file, whole = annotations / "image0_00.xml", (annotations / "image0_00.xml").read_text()

    def refused(text: str, message: str) -> None:
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            open_boxes(root)
        file.write_text(whole)

    refused(whole[:-20], "image0_00.xml is no VOC annotation")
    refused(whole.replace("image0_00.png", "gone.png"), "annotates .*gone.png, which is not there")
    refused(whole.replace("image0_00.png", "image0_01.png"), "annotated twice")
    refused(whole.replace("<width>64", "<width>wide"), "<size/width> is 'wide', wanted a number")
    refused(whole.replace("<width>64", "<width>128"), "says 128 x 48 pixels, .* has 64 x 48")
    refused(whole.replace("<xmin>", "<min>").replace("</xmin>", "</min>"), "no <bndbox/xmin>")
    with pytest.raises(InputError, match="unknown class: wanted one of square"):
        open_boxes(root, ("square",))
    (root / "JPEGImages" / "image0_01.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"image0_01.png cannot be read as an image"):
        open_boxes(root)


def test_bad_image_lists(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "voc", drawn(3))
    for text, message in (
        ("", "names no images"),
        ("image0_00\nimage0_00\n", "names image0_00 twice"),
        ("nowhere\n", "nowhere.xml is not there: the image has no annotation"),
    ):
        (root / "list.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            open_boxes(root / "list.txt")
    (tmp_path / "list.txt").write_text("image0_00")
    with pytest.raises(InputError, match="no folder Annotations above"):
        open_boxes(tmp_path / "list.txt")


def _drop_categories(content: dict[str, Any]) -> None:
    del content["categories"]


BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "has no list 'categories'": _drop_categories,
    "unknown class, category 7: wanted one of": lambda c: c["annotations"][0].update(category_id=7),
    "image 99, which the file does not list": lambda c: c["annotations"][0].update(image_id=99),
    "two of its images have the id 1": lambda c: c["images"][1].update(id=1),
    "two categories have one name": lambda c: c["categories"][1].update(name="bar"),
    "wanted x, y, width, height": lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
    "has no 'bbox'": lambda c: c["annotations"][0].pop("bbox"),
    "no area": lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10]),
    "outside the image": lambda c: c["annotations"][0].update(bbox=[50, 5, 30, 10]),
    "annotates no box": lambda c: c.update(annotations=[]),
    "gone.png, which is not there": lambda c: c["images"][0].update(file_name="gone.png"),
    "holds something other than objects": lambda c: c.update(images=[3]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_bad_coco(tmp_path: Path, message: str) -> None:
    root = write_coco(tmp_path, drawn(3))
    content = coco_content(drawn(3))
    BROKEN[message](content)
    (root / "instances.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        open_boxes(root)


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder, COCO file"):
        open_boxes(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has neither"):
        open_boxes(tmp_path)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as COCO's JSON"):
        open_boxes(tmp_path)
    write_voc(tmp_path, drawn(2))
    with pytest.raises(InputError, match=r"a\.json and .*Annotations: name one"):
        open_boxes(tmp_path)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.json").write_text(json.dumps(coco_content(drawn(2, seed=9))))
    with pytest.raises(InputError, match=r"none of the 2 images .*image9_00.png: looked in"):
        open_boxes(tmp_path / "far" / "b.json")


def test_a_split_is_seeded_and_whole(tmp_path: Path) -> None:
    root = write_voc(tmp_path, drawn(10))
    train, val = box_pair(root, root, val_share=0.3, seed=4)
    assert (train.num_images, val.num_images) == (7, 3)
    names = [{one.file.name for one in part.pictures} for part in (train, val)]
    assert len(names[0] | names[1]) == 10
    assert train.class_names == val.class_names == NAMES
    again = box_pair(root, root, val_share=0.3, seed=4)
    assert (again[0].digest, again[1].digest) == (train.digest, val.digest)
    assert box_pair(root, root, val_share=0.3, seed=5)[1].digest != val.digest
    with pytest.raises(InputError, match=r"give --detection.val-share 0.2"):
        box_pair(root, root)
    with pytest.raises(InputError, match="0 to be scored on"):
        split(open_boxes(root), 0.01, seed=0)


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
