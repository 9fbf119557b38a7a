"""The objects of the demo pictures: outlines of the kinds, placing, shading, shadow.

Shapes: H W pixels, P points of a contour.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.demo.textures import SURFACES

Floats = NDArray[np.float32]
Mask = NDArray[np.uint8]
# The outline and the holes, float32 [P, 2] each; the outline reaches about 1 from the origin.
Contours = tuple[Floats, ...]

Range = tuple[float, float]
SHARE_OF_PICTURE: Range = (0.08, 0.25)  # of the object, without holes; less where it would not fit
MARGIN = 2  # pixels between the object and the border
SUBPIXEL_BITS = 4
FINER = 4  # pixels of the grid that an object is drawn on, per pixel of the picture
TURN = np.linspace(0, 2 * np.pi, 145, dtype=np.float32)[:-1]


def polar(radius: NDArray[np.floating]) -> Floats:
    """Contour from a radius per angle of TURN."""
    return np.stack([radius * np.cos(TURN), radius * np.sin(TURN)], axis=1).astype(np.float32)


def circle(radius: float) -> Floats:
    """A circle about the origin."""
    return polar(np.full_like(TURN, radius))


DISC = circle(1.0)


def points(*pairs: tuple[float, float]) -> Floats:
    """A polygon."""
    return np.array(pairs, np.float32)


def _crescent() -> Floats:
    """A disc that another disc has bitten."""
    outer = np.linspace(0.95, 2 * np.pi - 0.95, 90)
    tip = np.array([np.cos(0.95), np.sin(0.95)])
    centre, radius = 0.62, float(np.hypot(tip[0] - 0.62, tip[1]))
    start = np.arctan2(-tip[1], tip[0] - centre) % (2 * np.pi)
    inner = np.linspace(start, 2 * np.pi - start, 60)[1:-1]
    bite = np.stack([centre + radius * np.cos(inner), radius * np.sin(inner)], axis=1)
    disc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    return np.concatenate([disc, bite]).astype(np.float32)


def _heart() -> Floats:
    """The card suit."""
    x = 16 * np.sin(TURN) ** 3
    y = 13 * np.cos(TURN) - 5 * np.cos(2 * TURN) - 2 * np.cos(3 * TURN) - np.cos(4 * TURN)
    return np.stack([x, -(y + 2.5)], axis=1).astype(np.float32) / np.float32(15.5)


def _panes() -> list[Floats]:
    """The four holes of a square window."""
    near, far = 0.12, 0.58
    corners = ((near, near), (far, near), (far, far), (near, far))
    return [
        points(*((x * right, y * down) for right, down in corners))
        for x in (-1, 1)
        for y in (-1, 1)
    ]


def _star() -> Floats:
    """Five points."""
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.46)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


OBJECTS: dict[str, Contours] = {
    "clover": (polar(0.68 + 0.32 * np.cos(4 * TURN)),),
    "crescent": (_crescent(),),
    "cross": (
        points(
            (0.32, 0.95), (0.32, 0.32), (0.95, 0.32), (0.95, -0.32), (0.32, -0.32), (0.32, -0.95),
            (-0.32, -0.95), (-0.32, -0.32), (-0.95, -0.32), (-0.95, 0.32), (-0.32, 0.32),
            (-0.32, 0.95),
        ),
    ),
    "gear": (polar(0.76 + 0.24 * np.clip(0.5 + 2.5 * np.cos(9 * TURN), 0, 1)), circle(0.26)),
    "heart": (_heart(),),
    "lattice": (points((0.8, 0.8), (0.8, -0.8), (-0.8, -0.8), (-0.8, 0.8)), *_panes()),
    "ring": (circle(1.0), circle(0.52)),
    "star": (_star(),),
}  # fmt: skip
"""The form of each kind."""


def litter(rng: np.random.Generator, scene: Floats) -> None:
    """Paint small things of any hue into a scene [3, H, W]: none is of a kind.

    Ellipses and triangles, 0.2 to 2 % of the picture each.
    """
    height, width = scene.shape[1:]
    painted = np.zeros((height, width, 4), np.uint8)  # the last plane: how much is covered
    for _ in range(int(rng.integers(2, 7))):
        corners = DISC[:: 48 if rng.random() < 0.5 else 12]
        area = rng.uniform(0.002, 0.02) * height * width
        angle, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.6)
        cos, sin, long = np.cos(angle), np.sin(angle), np.sqrt(area / np.pi)
        form = np.array([[cos * stretch, sin * stretch], [-sin / stretch, cos / stretch]]) * long
        where = rng.random(2) * (width, height)
        fixed = np.rint((corners @ form + where) * (1 << SUBPIXEL_BITS)).astype(np.int32)
        colour = (*rng.uniform(20, 235, 3).tolist(), 255.0)
        cv2.fillPoly(painted, [fixed], colour, shift=SUBPIXEL_BITS)
    covered = painted[:, :, 3] > 0
    scene[:, covered] = painted[covered][:, :3].T


def place_object(
    kind: str, rng: np.random.Generator, height: int, width: int, object_share: Range
) -> Mask:
    """The antialiased mask [H, W] of an object, turned, stretched a little, wholly inside."""
    contours = OBJECTS[kind]
    area = cv2.contourArea(contours[0]) - sum(cv2.contourArea(hole) for hole in contours[1:])
    share = rng.uniform(*object_share)
    angle, stretch, shear = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18), rng.normal(0, 0.08)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    form = np.array([[stretch, shear], [0, 1 / stretch]])  # keeps the area
    matrix = (turn @ form * np.sqrt(share * height * width / area)).astype(np.float32)
    outline = contours[0] @ matrix.T
    low, high = outline.min(axis=0), outline.max(axis=0)
    corner = np.array([width - 1 - MARGIN, height - 1 - MARGIN])
    room = (corner - MARGIN) / (high - low)
    shrink = np.float32(min(1.0, float(room.min())))
    low, high = low * shrink, high * shrink
    where = rng.uniform(MARGIN - low, np.maximum(corner - high, MARGIN - low)).astype(np.float32)
    # OpenCV fills the border's pixels too: on a finer grid that adds little to the object.
    scale = FINER << SUBPIXEL_BITS
    fixed = [np.rint((c @ matrix.T * shrink + where) * scale).astype(np.int32) for c in contours]
    fine = np.zeros((FINER * height, FINER * width), np.uint8)
    cv2.fillPoly(fine, fixed, 255, shift=SUBPIXEL_BITS)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8)


def shaded_surface(
    kind: str, mask: Mask, colours: Floats, light: Floats, rng: np.random.Generator
) -> Floats:
    """The object's colour per pixel [3, H, W]: its kind's surface, rounded edge, light.

    `colours` are BGR in 0..255, float32 [2, 3]; `light` is a unit vector (x, y) towards the light.
    """
    height, width = mask.shape
    blend = SURFACES[kind](rng, height, width)
    one, two = colours[:, :, None, None]
    surface = one + blend * (two - one)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    bevel = rng.uniform(0.03, 0.09) * min(height, width)
    relief = cv2.GaussianBlur(np.sin(np.minimum(depth / bevel, 1) * (np.pi / 2)), (0, 0), 1.2)
    slope_x, slope_y = (cv2.Sobel(relief, cv2.CV_32F, dx, 1 - dx, scale=bevel / 8) for dx in (1, 0))
    facing = -(slope_x * light[0] + slope_y * light[1])
    shade = np.float32(1) + rng.uniform(0.25, 0.5) * np.clip(facing, -1, 1)
    gloss = 90 * np.clip(facing - 0.55, 0, 1)
    return np.asarray(surface * shade + gloss, np.float32)


def soft_shadow(mask: Mask, light: Floats, rng: np.random.Generator) -> Floats:
    """How much of the light the object takes from the background: float32 [H, W] in 0..0.6."""
    height, width = mask.shape
    reach = rng.uniform(0.02, 0.06) * min(height, width)
    shift = np.array([[1, 0, -light[0] * reach], [0, 1, -light[1] * reach]], np.float32)
    moved = cv2.warpAffine(mask, shift, (width, height))
    blurred = cv2.GaussianBlur(moved, (0, 0), 0.8 * reach).astype(np.float32)
    return np.asarray(blurred * np.float32(rng.uniform(0.35, 0.6) / 255))
