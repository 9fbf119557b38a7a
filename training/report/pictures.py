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

from training.record.contact_sheet import heat

Pixels = NDArray[np.uint8]
Patches = NDArray[np.bool_]
JPEG_QUALITY = 82
CRISP = 96
"""Pictures of at most so many pixels a side are small."""
PICTURE = Markup(
    '<figure><span class="shown"><img src="data:image/{kind};base64,{data}" alt="{alt}" '
    'width="{width}" height="{height}" class="{style}">{overlay}</span>'
    "<figcaption>{label}</figcaption></figure>"
)


class Card(NamedTuple):
    """Pictures of one image or one kind, in strips that each have a line of text above."""

    title: str
    strips: Sequence[tuple[str, Sequence[Markup]]]
    text: str = ""


def picture(pixels: Pixels, alt: str, *, overlay: str = "", label: str = "") -> Markup:
    """HTML of RGB uint8 [H, W, 3] with SVG over it and a label below: a PNG if small, else a JPEG.

    The pixels of a small one stay squares when the page enlarges it.
    """
    height, width = pixels.shape[:2]
    kind, style, options = "jpeg", "", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    if max(height, width) <= CRISP:
        kind, style, options = "png", "crisp", [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, encoded = cv2.imencode(f".{kind}", np.ascontiguousarray(pixels[..., ::-1]), options)
    data = base64.b64encode(encoded.tobytes()).decode()
    size = {"width": width, "height": height}
    words = {"alt": alt, "overlay": overlay, "label": label}
    return PICTURE.format(kind=kind, data=data, style=style, **size, **words)


def as_stored(image: Pixels, saliency_PP: Pixels, name: str) -> list[Markup]:
    """An image, and the image under its saliency."""
    return [
        picture(image, f"{name}, as it is stored", label="image"),
        picture(heat(image, saliency_PP), f"{name}: saliency as heat", label="saliency"),
    ]


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """An image whose longer side is at most `side` pixels."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def grid_overlay(foreground_GG: Patches, masked_GG: Patches | None = None) -> Markup:
    """SVG of the patch grid: lines, the outline of the foreground, a dot on each masked patch."""
    grid, padded = len(foreground_GG), np.pad(foreground_GG, 1)
    lines = "".join(f"M0 {i}H{grid}M{i} 0V{grid}" for i in range(1, grid))
    across = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
    down = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
    edge = "".join(f"M{x} {y}h1" for y, x in across) + "".join(f"M{x} {y}v1" for y, x in down)
    paths = {"g": lines, "h": edge, "f": edge}
    parts = [f'<path class="{name}" d="{d}"/>' for name, d in paths.items()]
    for row, column in () if masked_GG is None else np.argwhere(masked_GG):
        parts.append(f'<circle cx="{column + 0.5:g}" cy="{row + 0.5:g}" r=".17"/>')
    box = f'viewBox="0 0 {grid} {grid}" preserveAspectRatio="none"'
    return Markup(f'<svg class="over" {box} aria-hidden="true">{"".join(parts)}</svg>')
