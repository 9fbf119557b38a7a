"""Textures of the demo pictures: backgrounds, and the surfaces of objects.

Shapes: H W pixels. A background family returns two weights in [0, 1] per pixel: the first blends
colour 0 towards colour 1, the second blends the outcome towards colour 2. A surface returns one
weight, from the object's one colour to its other.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Family = Callable[[np.random.Generator, int, int], tuple[Floats, Floats]]
Surface = Callable[[np.random.Generator, int, int], Floats]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> Floats:
    """Noise of about `cells` humps a side, roughly within -1..1: float32 [H, W]."""
    coarse = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def turned_grid(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Coordinates along and across a random direction; the picture spans about -0.5..0.5."""
    angle = rng.uniform(0, 2 * np.pi)
    side = np.float32(max(height, width))
    down = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / side
    right = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / side
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return right * cos + down * sin, down * cos - right * sin


def smoothstep(x: Floats) -> Floats:
    """0 below 0, 1 above 1, smooth between."""
    inside = np.clip(x, 0, 1)
    return np.asarray(inside * inside * (3 - 2 * inside), np.float32)


def edge(x: Floats, sharpness: float) -> Floats:
    """A step at 0, `sharpness` steep, antialiased for any sane value: float32 in 0..1."""
    return np.asarray(np.clip(0.5 + np.float32(sharpness) * x, 0, 1), np.float32)


def gradient(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Light falling off in one direction, and a soft spot."""
    along = turned_grid(rng, height, width)[0]
    return smoothstep(along + 0.5), 0.7 * smoothstep(smooth_noise(rng, height, width, 3))


def clouds(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Noise at several scales."""
    total = np.zeros((height, width), np.float32)
    for octave, cells in enumerate((4, 8, 16, 32)):
        total += 0.62**octave * smooth_noise(rng, height, width, cells)
    return smoothstep(0.5 + 0.7 * total), 0.6 * smoothstep(smooth_noise(rng, height, width, 6))


def stripes(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Stripes, slightly bent, over a faint gradient."""
    along, across = turned_grid(rng, height, width)
    bend = 0.06 * smooth_noise(rng, height, width, 3)
    wave = np.sin(2 * np.pi * rng.uniform(4, 11) * (along + bend))
    return edge(wave, rng.uniform(1.5, 5)), 0.5 * smoothstep(across + 0.5)


def checks(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """A chequered cloth, turned."""
    along, across = turned_grid(rng, height, width)
    count = rng.uniform(3, 7)
    one, two = np.sin(2 * np.pi * count * along), np.sin(2 * np.pi * count * across)
    sharpness = rng.uniform(4, 9)
    return edge(one * two * 1.5, sharpness), 0.45 * edge(one, sharpness)


def blobs(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Patches with an edge, as on camouflage, in two sizes."""
    big = smooth_noise(rng, height, width, int(rng.integers(5, 9)))
    small = smooth_noise(rng, height, width, int(rng.integers(9, 16)))
    return edge(big, rng.uniform(5, 14)), 0.9 * edge(small - 0.35, 10)


def fibres(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Grass or wood: noise much finer across one direction than along it."""
    side = 2 * max(height, width)
    fine = rng.random((int(rng.integers(40, 90)), int(rng.integers(4, 9))), np.float32)
    field = cv2.resize(fine, (side, side), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 360), 1.0)
    turn[:, 2] += np.array([(width - side) / 2, (height - side) / 2])
    field = cv2.warpAffine(field, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    noise = smooth_noise(rng, height, width, 4)
    return smoothstep(field.astype(np.float32)), 0.6 * smoothstep(0.4 + noise)


def ripples(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Waves about a point outside of the picture, over soft light."""
    along, across = turned_grid(rng, height, width)
    far = np.hypot(along - rng.uniform(0.6, 1.2), across - rng.uniform(-0.5, 0.5))
    wave = np.sin(2 * np.pi * rng.uniform(4, 9) * far)
    return edge(wave, rng.uniform(0.4, 1.2)), 0.5 * smoothstep(smooth_noise(rng, height, width, 4))


def specks(rng: np.random.Generator, height: int, width: int) -> tuple[Floats, Floats]:
    """Pebbles: small spots with an edge, of two tones, on even ground."""
    fine = smooth_noise(rng, height, width, int(rng.integers(18, 26)))
    return edge(fine - 0.3, 8), 0.8 * edge(-fine - 0.35, 8)


FAMILIES: tuple[Family, ...] = (
    gradient,
    clouds,
    stripes,
    checks,
    blobs,
    fibres,
    ripples,
    specks,
)
"""The typical background of each kind, in the order of the kinds."""


def background(
    rng: np.random.Generator, height: int, width: int, colours: Floats, family: Family
) -> Floats:
    """A texture of one of `FAMILIES` in three colours, BGR in 0..255, float32 [3, 3].

    Returns:
        float32 [3, H, W], BGR planes in 0..255 (planes: several times faster to blend).
    """
    first, second = family(rng, height, width)
    grain = np.float32(1) + rng.uniform(0.03, 0.14) * smooth_noise(rng, height, width, 48)
    one, two, three = colours[:, :, None, None]
    mixed = one + first * (two - one)
    mixed += second * (three - mixed)
    mixed *= grain
    return np.asarray(mixed, np.float32)


def dots(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Round dots in rows."""
    along, across = turned_grid(rng, height, width)
    count = 2 * np.pi * rng.uniform(7, 9)
    return edge(np.cos(count * along) + np.cos(count * across) - 0.7, 3)


def bars(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Straight stripes."""
    along, _ = turned_grid(rng, height, width)
    return edge(np.sin(2 * np.pi * rng.uniform(8, 10) * along), 4)


def squares(rng: np.random.Generator, height: int, width: int) -> Floats:
    """A chequerboard."""
    along, across = turned_grid(rng, height, width)
    count = 2 * np.pi * rng.uniform(4.5, 6)
    return edge(np.sin(count * along) * np.sin(count * across), 8)


def waves(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Zigzag lines."""
    along, across = turned_grid(rng, height, width)
    zigzag = np.abs((across * rng.uniform(7, 9)) % 1 - 0.5)
    return edge(np.sin(2 * np.pi * (rng.uniform(7, 9) * along + 1.2 * zigzag)), 3)


def spots(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Irregular patches with an edge."""
    return edge(smooth_noise(rng, height, width, int(rng.integers(11, 14))), 6)


def sheen(rng: np.random.Generator, height: int, width: int) -> Floats:
    """One colour that turns slowly into the other."""
    along, _ = turned_grid(rng, height, width)
    return np.asarray(np.clip(along + 0.5, 0, 1), np.float32)


def grain(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Fine, soft noise."""
    return np.asarray(np.clip(0.5 + 0.9 * smooth_noise(rng, height, width, 30), 0, 1), np.float32)


def circles(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Circles about a common centre."""
    along, across = turned_grid(rng, height, width)
    far = np.hypot(along - rng.uniform(-0.2, 0.2), across - rng.uniform(-0.2, 0.2))
    return edge(np.sin(2 * np.pi * rng.uniform(8, 10) * far), 3)


SURFACES: dict[str, Surface] = {
    "clover": spots,
    "crescent": sheen,
    "cross": bars,
    "gear": circles,
    "heart": dots,
    "lattice": grain,
    "ring": waves,
    "star": squares,
}
"""By kind of object."""
