"""Folders of pictures to precompute from, and what came of them."""

import hashlib
from pathlib import Path

import cv2
import numpy as np


def write_pictures(data: Path, count: int = 20) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class_{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (48, 64, 3), dtype=np.uint8)
        cv2.circle(pixels, (20 + number, 24), 10, (30, 60, 250), -1)
        suffix = ("jpg", "png", "webp", "tif")[number % 4]
        assert cv2.imwrite(str(folder / f"picture {number}.{suffix}"), pixels)


def contents(folder: Path) -> dict[str, str]:
    """Digests of all files but the one that depends on the place of the data."""
    found = (path for path in folder.rglob("*") if path.suffix != ".versions")
    files = sorted(path for path in found if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
