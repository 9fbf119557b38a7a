"""A picture of what a source finds and misses: image, map and mask of its best and worst cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from pipeline.saliency.interface import Map
from pipeline.saliency.quality import MapQuality, Mask
from pipeline.storage.atomic import write_atomically

TILE, GAP, HEADER, CAPTION = 144, 6, 26, 18
TITLES = ("image", "map", "mask")
INK, PAPER = (40, 40, 44), (250, 250, 248)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One row of the picture.

    Attributes:
        name: of the image.
        image: uint8 [H, W, 3] RGB.
        saliency: float32 [h, w] in [0, 1].
        mask: bool.
        quality: of the map.
    """

    name: str
    image: Picture
    saliency: Map
    mask: Mask
    quality: MapQuality


def best_and_worst(qualities: Mapping[str, MapQuality], num: int) -> tuple[list[str], list[str]]:
    """The names of the best and of the worst images, by IoU, then AUC; those that count only."""
    counted = sorted(
        (name for name, quality in qualities.items() if quality.iou is not None),
        key=lambda name: (qualities[name].iou, qualities[name].auc or 0.0, name),
    )
    num = min(num, len(counted) // 2)
    return counted[::-1][:num], counted[:num]


def draw_cases(path: Path, title: str, best: Sequence[Case], worst: Sequence[Case]) -> None:
    """Write a PNG: the best cases at the left, the worst at the right.

    Args:
        path: of the PNG; its folder is made.
        title: what is scored.
        best: from the best on.
        worst: from the worst on.
    """
    column = len(TITLES) * (TILE + GAP) + 3 * GAP
    row = TILE + CAPTION + GAP
    num_rows = max(len(best), len(worst))
    sheet = Image.new("RGB", (2 * column, 2 * HEADER + num_rows * row), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((GAP, 6), title, fill=INK, font=font)
    for left, heading, cases in ((0, "best", best), (column, "worst", worst)):
        for number, words in enumerate(TITLES):
            text = f"{heading}: {words}" if number == 0 else words
            draw.text((left + GAP + number * (TILE + GAP), HEADER + 6), text, fill=INK, font=font)
        for number, case in enumerate(cases):
            top = 2 * HEADER + number * row
            for place, tile in enumerate(_tiles(case)):
                sheet.paste(Image.fromarray(tile), (left + GAP + place * (TILE + GAP), top))
            draw.text((left + GAP, top + TILE + 1), _caption(case), fill=INK, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", np.asarray(sheet)[:, :, ::-1])
    assert written
    write_atomically(path, data.tobytes())


def _caption(case: Case) -> str:
    auc = "" if case.quality.auc is None else f"AUC {case.quality.auc:.2f}  "
    name = case.name if len(case.name) < 36 else "..." + case.name[-33:]
    return f"{auc}IoU {case.quality.iou:.2f}  {name}"


def _tiles(case: Case) -> tuple[Picture, Picture, Picture]:
    height, width = case.image.shape[:2]
    size = _fitting(height, width)
    image = cv2.resize(case.image, size, interpolation=cv2.INTER_AREA)
    levels = np.rint(np.clip(case.saliency, 0, 1) * 255).astype(np.uint8)
    levels = np.asarray(cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    heat = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    mask = cv2.resize(case.mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    return (
        _letterbox(np.asarray(image, np.uint8)),
        _letterbox(np.asarray(heat, np.uint8)),
        _letterbox(np.repeat(np.asarray(mask, np.uint8)[..., None], 3, axis=2)),
    )


def _fitting(height: int, width: int) -> tuple[int, int]:
    """(width, height) of an image shrunk into a tile."""
    scale = TILE / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _letterbox(picture: Picture) -> Picture:
    height, width = picture.shape[:2]
    tile = np.full((TILE, TILE, 3), PAPER, dtype=np.uint8)
    top, left = (TILE - height) // 2, (TILE - width) // 2
    tile[top : top + height, left : left + width] = picture
    return tile
