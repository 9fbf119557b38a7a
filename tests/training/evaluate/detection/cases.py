"""Tiny sets of images with boxes, in VOC's and in COCO's layout."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.evaluate.config import DetectionConfig

TINY = DetectionConfig(
    short_sides=(48,),
    long_side=64,
    steps=2,
    batch_size=2,
    warmup_steps=1,
    width=8,
    head_width=16,
    smallest_anchor=8,
    proposals=10,
    sampled=8,
)
NAMES = ("bar", "square")
WIDTH, HEIGHT = 64, 48


@dataclass(frozen=True)
class Drawn:
    """An image's name and its objects: class, and x, y, width, height in whole pixels."""

    name: str
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]


def drawn(num: int, seed: int = 0) -> list[Drawn]:
    """Images of one or two bright objects, one of a class each; the last image has none."""
    draw, made = np.random.default_rng(seed), []
    for number in range(num):
        objects = []
        if number < num - 1:
            left, top = (int(value) for value in draw.integers(1, 12, 2))
            objects.append(("square", (left, top, 20, 20)))
            if number % 2:
                objects.append(("bar", (left + 24, top + 4, 24, 8)))
        made.append(Drawn(f"image{seed}_{number:02d}", tuple(objects)))
    return made


def write_images(folder: Path, images: list[Drawn]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(images):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        for name, (x, y, wide, high) in one.objects:
            pixels[y : y + high, x : x + wide] = (30, 220, 30) if name == "bar" else (40, 40, 230)
        assert cv2.imwrite(str(folder / f"{one.name}.png"), pixels)


def write_voc(root: Path, images: list[Drawn]) -> Path:
    """VOC's layout; edges count from 1 and the last pixel is inside."""
    write_images(root / "JPEGImages", images)
    (root / "Annotations").mkdir(exist_ok=True)
    for one in images:
        objects = "".join(
            voc_object(name, x + 1, y + 1, x + wide, y + high)
            for name, (x, y, wide, high) in one.objects
        )
        (root / "Annotations" / f"{one.name}.xml").write_text(voc_xml(f"{one.name}.png", objects))
    return root


def voc_xml(filename: str, objects: str) -> str:
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation><filename>{filename}</filename>{size}{objects}</annotation>"


def voc_object(name: str, *edges: float, difficult: int = 0) -> str:
    xmin, ymin, xmax, ymax = edges
    box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{box}</bndbox></object>"
    )


def coco_content(images: list[Drawn], *, masks: bool = False) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(images, start=1):
        for name, (x, y, wide, high) in one.objects:
            entry: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": 10 * (1 + NAMES.index(name)),
                "bbox": [x, y, wide, high],
                "iscrowd": 0,
            }
            if masks:
                right, bottom = x + wide, y + high
                entry["segmentation"] = [[x, y, right, y, right, bottom, x, bottom]]
            annotations.append(entry)
    return {
        "images": [
            {"id": number, "file_name": f"{one.name}.png", "width": WIDTH, "height": HEIGHT}
            for number, one in enumerate(images, start=1)
        ],
        "annotations": annotations,
        "categories": [{"id": 10 * (1 + k), "name": name} for k, name in enumerate(NAMES)],
    }


def write_coco(root: Path, images: list[Drawn], *, masks: bool = False) -> Path:
    """COCO's layout: `instances.json` and `images`."""
    write_images(root / "images", images)
    (root / "instances.json").write_text(json.dumps(coco_content(images, masks=masks)))
    return root
