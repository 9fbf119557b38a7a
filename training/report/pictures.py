"""Pictures for a page: data URIs, saliency as heat, grids and crops drawn over them.

Shapes: H W pixels, P side of a stored saliency map, G grid side.
"""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
JPEG_QUALITY = 82
CRISP = 96
"""Pictures of at most so many pixels a side are shown pixel by pixel."""
HEAT_WEIGHT, DIMMED = 0.65, 0.22


class Picture(NamedTuple):
    """An image inside the page.

    Attributes:
        src: a data URI.
        alt: what it shows.
        width: pixels.
        height: pixels.
        overlay: SVG over it; empty: none.
        label: a line below it.
        crisp: whether its pixels stay squares when the page enlarges it.
    """

    src: str
    alt: str
    width: int
    height: int
    overlay: str
    label: str
    crisp: bool


class Strip(NamedTuple):
    """Pictures beside each other under a line of text."""

    pictures: Sequence[Picture]
    text: str = ""


class Card(NamedTuple):
    """Strips of pictures of one image or one kind."""

    title: str
    strips: Sequence[Strip]
    text: str = ""


def picture(pixels: Pixels, alt: str, *, overlay: str = "", label: str = "") -> Picture:
    """Encode RGB uint8 [H, W, 3]: as PNG if it has few pixels, else as JPEG."""
    height, width = pixels.shape[:2]
    crisp = max(height, width) <= CRISP
    suffix, mime, options = (
        (".png", "image/png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if crisp
        else (".jpg", "image/jpeg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    )
    written, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert written
    src = f"data:{mime};base64,{base64.b64encode(data.tobytes()).decode()}"
    return Picture(src, alt, width, height, overlay, label, crisp)


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """An image whose longer side is at most `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def heat(pixels: Pixels, saliency_PP: Pixels) -> Pixels:
    """An image under its saliency: dark where saliency is 0, bright yellow where it is 255."""
    height, width = pixels.shape[:2]
    large = cv2.resize(saliency_PP, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.asarray(large, np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return ((1 - HEAT_WEIGHT) * pixels + HEAT_WEIGHT * colours).astype(np.uint8)


def dimmed(pixels: Pixels, kept_GG: NDArray[np.bool_]) -> Pixels:
    """An image whose patches are dark except the kept ones."""
    height, width = pixels.shape[:2]
    weight = cv2.resize(
        np.where(kept_GG, 1.0, DIMMED), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return (pixels * weight[:, :, None]).astype(np.uint8)


def grid_overlay(foreground_GG: NDArray[np.bool_], masked_GG: NDArray[np.bool_] | None) -> str:
    """SVG of the patch grid: lines, the outline of the foreground, a dot on each masked patch."""
    grid, edge = len(foreground_GG), _outline(foreground_GG)
    lines = "".join(f"M0 {i}H{grid}M{i} 0V{grid}" for i in range(1, grid))
    parts = [
        f'<path class="{name}" d="{d}"/>' for name, d in {"g": lines, "h": edge, "f": edge}.items()
    ]
    if masked_GG is not None:
        parts += [
            f'<circle cx="{column + 0.5:g}" cy="{row + 0.5:g}" r=".17"/>'
            for row, column in np.argwhere(masked_GG)
        ]
    return _overlay(grid, grid, "".join(parts))


def boxes_overlay(boxes: dict[str, tuple[int, int, int, int]], height: int, width: int) -> str:
    """SVG of crops over an image.

    Args:
        boxes: top, left, height and width in pixels by CSS class.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    rectangles = "".join(
        f'<rect class="{name}" x="{left}" y="{top}" width="{wide}" height="{tall}"/>'
        for name, (top, left, tall, wide) in boxes.items()
    )
    return _overlay(width, height, rectangles)


def _overlay(width: int, height: int, inside: str) -> str:
    box = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return Markup(f'<svg class="over" {box} aria-hidden="true">{inside}</svg>')


def _outline(marked_GG: NDArray[np.bool_]) -> str:
    """Edges between marked patches and others, or the border of the picture."""
    padded = np.pad(marked_GG, 1)
    across = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
    down = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
    return "".join(f"M{x} {y}h1" for y, x in across) + "".join(f"M{x} {y}v1" for y, x in down)
