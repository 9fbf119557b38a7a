"""Pictures for a page: data URIs, saliency as heat, a grid of patches over them.

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
"""Pictures of at most so many pixels a side are small."""
HEAT_WEIGHT = 0.65


PICTURE = Markup(
    '<figure><span class="shown"><img src="{src}" alt="{alt}" width="{width}" height="{height}" '
    'class="{style}">{overlay}</span><figcaption>{label}</figcaption></figure>'
)


class Strip(NamedTuple):
    """Pictures beside each other under a line of text."""

    pictures: Sequence[Markup]
    text: str = ""


class Card(NamedTuple):
    """Strips of pictures of one image or one kind."""

    title: str
    strips: Sequence[Strip]
    text: str = ""


def picture(pixels: Pixels, alt: str, *, overlay: str = "", label: str = "") -> Markup:
    """HTML of RGB uint8 [H, W, 3] with SVG over it and a label below: a PNG if small, else a JPEG.

    The pixels of a small one stay squares when the page enlarges it.
    """
    height, width = pixels.shape[:2]
    kind, style, options = "jpeg", "", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    if max(height, width) <= CRISP:
        kind, style, options = "png", "crisp", [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, data = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels[..., ::-1]), options)
    src = f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
    return PICTURE.format(
        src=src, alt=alt, width=width, height=height, style=style, overlay=overlay, label=label
    )


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


def grid_overlay(
    foreground_GG: NDArray[np.bool_], masked_GG: NDArray[np.bool_] | None = None
) -> Markup:
    """SVG of the patch grid: lines, the outline of the foreground, a dot on each masked patch."""
    grid, edge = len(foreground_GG), _outline(foreground_GG)
    lines = "".join(f"M0 {i}H{grid}M{i} 0V{grid}" for i in range(1, grid))
    paths = {"g": lines, "h": edge, "f": edge}
    parts = [f'<path class="{name}" d="{d}"/>' for name, d in paths.items()]
    if masked_GG is not None:
        parts += [
            f'<circle cx="{column + 0.5:g}" cy="{row + 0.5:g}" r=".17"/>'
            for row, column in np.argwhere(masked_GG)
        ]
    box = f'viewBox="0 0 {grid} {grid}" preserveAspectRatio="none"'
    return Markup(f'<svg class="over" {box} aria-hidden="true">{"".join(parts)}</svg>')


def _outline(marked_GG: NDArray[np.bool_]) -> str:
    """Edges between marked patches and others, or the border of the picture."""
    padded = np.pad(marked_GG, 1)
    across = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
    down = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
    return "".join(f"M{x} {y}h1" for y, x in across) + "".join(f"M{x} {y}v1" for y, x in down)
