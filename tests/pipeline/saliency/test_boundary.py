"""The default source: objects are found where they are, whatever the image."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.demo.pictures import KINDS, draw_picture
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.controls import Centre
from pipeline.saliency.quality import map_quality, summarise

ROOT = Path(__file__).resolve().parents[3]
Picture = NDArray[np.uint8]

DIGEST_SCRIPT = """
import hashlib
import cv2
import numpy as np
from pipeline.saliency.boundary import Boundary
blocks = np.random.default_rng(5).integers(0, 256, (2, 9, 12, 3), np.uint8)
images = [cv2.resize(block, (200 + 20 * number, 180)) for number, block in enumerate(blocks)]
print(hashlib.sha256(b"".join(saliency.tobytes() for saliency in Boundary()(images))).hexdigest())
"""


def scene(x: int, y: int) -> Picture:
    """A reddish disc before a background of two parts, with noise."""
    speckle = np.random.default_rng(0).integers(-10, 11, (120, 160, 3))
    below = np.arange(120)[:, None, None] > 72
    colours = np.where(below, (90, 120, 60), (130, 150, 190))
    image = np.clip(colours + speckle, 0, 255).astype(np.uint8)
    cv2.circle(image, (x, y), 22, (190, 60, 50), -1)
    return image


def inside(x: int, y: int) -> NDArray[np.bool_]:
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (x, y), 22, 1, -1)
    return mask > 0


@pytest.mark.parametrize(
    ("x", "y"),
    [(80, 60), (30, 30), (35, 85), (150, 60), (80, 110)],
    ids=["centre", "top left", "bottom left", "cut by the right", "by the bottom"],
)
@pytest.mark.parametrize("prior_sigma", [0.5, 0.0])
def test_an_object_is_found_where_it_is(x: int, y: int, prior_sigma: float) -> None:
    (saliency,) = Boundary(prior_sigma=prior_sigma)([scene(x, y)])
    mask = inside(x, y)
    assert (map_quality(saliency, mask).auc or 0) > 0.97
    large = cv2.resize(saliency, (160, 120))
    assert large[mask].mean() > 0.8
    assert large[~mask].mean() < 0.2


def test_texture_finds_what_colour_does_not() -> None:
    rng = np.random.default_rng(1)
    mask = inside(60, 50)
    image = 120 + rng.integers(-4, 5, (120, 160, 1)).repeat(3, axis=2)
    image[mask] = 120 + rng.choice([-14, 14], (int(mask.sum()), 1))
    pixels = image.astype(np.uint8)
    found = map_quality(Boundary()([pixels])[0], mask)
    assert (found.auc or 0) > 0.99
    assert map_quality(Boundary(texture=0)([pixels])[0], mask).mae > 1.5 * found.mae


@pytest.mark.parametrize("flip", [-1, 0, 1], ids=["turned", "upside down", "mirrored"])
def test_the_map_turns_with_the_image(flip: int) -> None:
    """Not to the last bit: SLIC starts at the top left."""
    image = scene(50, 45)
    (plain,) = Boundary()([image])
    (turned,) = Boundary()([np.ascontiguousarray(cv2.flip(image, flip)).astype(np.uint8)])
    difference = np.abs(cv2.flip(turned, flip) - plain)
    assert np.median(difference) < 0.02
    assert difference.mean() < 0.05


def test_light_and_size_matter_little() -> None:
    image = scene(50, 45)
    darker = (image * 0.7).astype(np.uint8)
    larger = cv2.resize(image, (480, 360), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
    plain, *others = Boundary()([image, darker, larger])
    for saliency in others:
        assert np.abs(saliency - plain).mean() < 0.06


def test_maps_are_the_same_in_every_process_and_with_any_number_of_threads() -> None:
    found = set()
    for threads in ("1", "4"):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", DIGEST_SCRIPT],
            env={**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(names, threads)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found.add(done.stdout.strip())
    assert len(found.pop()) == 64
    assert not found


@pytest.mark.parametrize(
    ("height", "width"), [(1, 2), (1, 4000), (4000, 1), (17, 16), (1500, 1200)]
)
@pytest.mark.parametrize("look", ["two halves", "one pixel", "gradient"])
def test_odd_images_have_maps(height: int, width: int, look: str) -> None:
    image = np.full((height, width, 3), 10, np.uint8)
    if look == "two halves":
        image[: max(1, height // 2), : max(1, width // 2)] = 240
    elif look == "one pixel":
        image[height // 2, width // 2] = 255
    else:
        image += np.linspace(0, 200, width).astype(np.uint8)[:, None]
    (saliency,) = Boundary()([image])
    assert saliency.dtype == np.float32
    assert saliency.ndim == 2
    assert 0 <= saliency.min() <= saliency.max() <= 1


@pytest.mark.parametrize(
    "odd",
    [
        {"prior_sigma": 0.001},
        {"prior_sigma": 1e9},
        {"rounds": 0},
        {"rounds": 10},
        {"side": 16, "detail_side": 16, "num_superpixels": 16},
        {"num_superpixels": 1000},
    ],
)
def test_odd_parameters_have_maps(odd: dict[str, int]) -> None:
    (saliency,) = Boundary(**odd)([scene(50, 45)])
    assert (saliency.min(), saliency.max()) == (0, 1)


def test_drawn_objects_are_found() -> None:
    """Pictures of every kind, in every light: their masks are known."""
    found, centre = [], []
    for kind, number in itertools.product(KINDS, range(3)):
        rng = np.random.default_rng([3, KINDS.index(kind), number])
        picture = draw_picture(kind, rng, 128)
        pixels, mask = np.ascontiguousarray(picture.pixels[..., ::-1]), picture.mask > 0
        found.append(map_quality(Boundary()([pixels])[0], mask))
        centre.append(map_quality(Centre()([pixels])[0], mask))
    assert summarise(found).auc > max(0.93, summarise(centre).auc + 0.05)
