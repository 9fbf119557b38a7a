"""Pictures for a page: as data URIs, with saliency as heat, with grids drawn over them.

Shapes: H W pixels, P side of a stored saliency map, G grid side.
"""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

from training.report.page import Picture

Pixels = NDArray[np.uint8]
JPEG_QUALITY = 82
HEAT_WEIGHT, DIMMED = 0.65, 0.22


def picture(
    pixels: Pixels,
    alt: str,
    *,
    side: int | None = None,
    overlay: str = "",
    label: str = "",
    crisp: bool = False,
) -> Picture:
    """An image for the page.

    Args:
        pixels: RGB uint8 [H, W, 3].
        alt: what it shows.
        side: of a larger image, the longer side that it is made smaller to.
        overlay: SVG over it.
        label: a word below it.
        crisp: few pixels, each of which counts: lossless, and squares when enlarged.
    """
    if side is not None:
        pixels = shrunk(pixels, side)
    height, width = pixels.shape[:2]
    suffix, options = (
        (".png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if crisp
        else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    )
    written, data = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., ::-1]), options)
    assert written
    mime = "image/png" if crisp else "image/jpeg"
    src = f"data:{mime};base64,{base64.b64encode(data.tobytes()).decode()}"
    return Picture(
        src=src, alt=alt, width=width, height=height, overlay=overlay, label=label, crisp=crisp
    )


def shrunk(pixels: Pixels, side: int) -> Pixels:
    """An image whose longer side is at most `side`."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def heat(pixels: Pixels, saliency_PP: Pixels) -> Pixels:
    """An image under its saliency: dark where there is none, bright yellow where it is greatest."""
    height, width = pixels.shape[:2]
    large = cv2.resize(saliency_PP, (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.asarray(large, np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return ((1 - HEAT_WEIGHT) * pixels + HEAT_WEIGHT * colours).astype(np.uint8)


def dimmed(pixels: Pixels, kept_GG: NDArray[np.bool_]) -> Pixels:
    """An image whose patches are dark but for some."""
    height, width = pixels.shape[:2]
    weight = cv2.resize(
        np.where(kept_GG, 1.0, DIMMED), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return (pixels * weight[:, :, None]).astype(np.uint8)


def grid_overlay(
    foreground_GG: NDArray[np.bool_] | None,
    masked_GG: NDArray[np.bool_] | None = None,
    *,
    grid: int,
) -> str:
    """SVG of the patch grid: its lines, the outline of the foreground, dots on masked patches."""
    parts = [
        f'<path class="g" d="{"".join(f"M0 {i}H{grid}M{i} 0V{grid}" for i in range(1, grid))}"/>'
    ]
    if foreground_GG is not None:
        edge = _outline(foreground_GG)
        parts += [f'<path class="halo" d="{edge}"/>', f'<path class="f" d="{edge}"/>']
    if masked_GG is not None:
        parts += [
            f'<circle cx="{column + 0.5:g}" cy="{row + 0.5:g}" r=".17"/>'
            for row, column in np.argwhere(masked_GG)
        ]
    return _overlay(grid, grid, "".join(parts))


def boxes_overlay(boxes: dict[str, tuple[int, int, int, int]], height: int, width: int) -> str:
    """SVG of crops (top, left, height, width in pixels) over an image, by their CSS class."""
    rectangles = "".join(
        f'<rect class="{name}" x="{left}" y="{top}" width="{wide}" height="{tall}"/>'
        for name, (top, left, tall, wide) in boxes.items()
    )
    return _overlay(width, height, rectangles)


def _overlay(width: int, height: int, inside: str) -> str:
    box = f'viewBox="0 0 {width} {height}" preserveAspectRatio="none"'
    return f'<svg class="over" {box} aria-hidden="true">{inside}</svg>'


def _outline(marked_GG: NDArray[np.bool_]) -> str:
    """Edges between marked patches and others, or the picture's border."""
    padded = np.pad(marked_GG, 1)
    across = np.argwhere(padded[:-1, 1:-1] != padded[1:, 1:-1])
    down = np.argwhere(padded[1:-1, :-1] != padded[1:-1, 1:])
    return "".join(f"M{x} {y}h1" for y, x in across) + "".join(f"M{x} {y}v1" for y, x in down)
