"""The default source and its cues: slow references, and objects that are found where they are."""

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
from pipeline.saliency.boundary import (
    LEAST_TRUST,
    STRANGE,
    VARIANCE_FLOOR,
    Boundary,
    barrier_distance,
    border_distance,
    relearn,
    stretch,
    weighted_gaussian,
)
from pipeline.saliency.controls import Centre
from pipeline.saliency.quality import map_quality, summarise
from pipeline.saliency.superpixels import Floats, Superpixels, cut

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
@pytest.mark.parametrize("look", ["noise", "two halves", "one pixel", "gradient"])
def test_odd_images_have_maps(height: int, width: int, look: str) -> None:
    image = np.full((height, width, 3), 10, np.uint8)
    if look == "noise":
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    elif look == "two halves":
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


@pytest.fixture(scope="module")
def pieces() -> Superpixels:
    image = np.random.default_rng(0).integers(0, 30, (72, 96, 3), dtype=np.uint8)
    cv2.circle(image, (70, 26), 16, (180, 60, 40), -1)
    return cut(image, 120)


def test_stretch() -> None:
    assert stretch(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert stretch(np.array([5.0, 5.0])).tolist() == [0, 0]


def test_a_weighted_gaussian_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(2)
    features, counts = rng.normal(0, 5, (12, 3)), rng.integers(0, 5, 12)
    squared, log_volume = weighted_gaussian(features, counts.astype(np.float64))
    repeated = np.repeat(features, counts, axis=0)
    covariance = np.cov(repeated.T, bias=True) + VARIANCE_FLOOR * np.eye(3)
    offset = features - repeated.mean(axis=0)
    assert squared == pytest.approx([float(o @ np.linalg.inv(covariance) @ o) for o in offset])
    assert log_volume == pytest.approx(np.log(np.linalg.det(covariance)))


def test_the_border_distance_is_to_the_side_that_is_most_alike(pieces: Superpixels) -> None:
    features = np.random.default_rng(1).normal(0, 10, (len(pieces), 4))
    labels = pieces.labels_hw
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])

    def distances(trust: Floats) -> Floats:
        """To each side, whose superpixels count as often as they have pixels on the edge."""
        rows = []
        for edge, weights in zip(edges, trust, strict=True):
            samples, weight = features[edge], weights[edge]
            offset = features - np.average(samples, axis=0, weights=weight)
            covariance = np.cov(samples.T, bias=True, aweights=weight) + VARIANCE_FLOOR * np.eye(4)
            rows.append([float(o @ np.linalg.inv(covariance) @ o) for o in offset])
        return np.array(rows)

    first = distances(np.ones((4, len(pieces))))
    elsewhere = np.array([np.delete(first, side, axis=0).min(axis=0) for side in range(4)])
    second = distances(np.exp(-elsewhere / (2 * STRANGE**2)) + LEAST_TRUST)
    assert border_distance(features, pieces) == pytest.approx(np.sqrt(second.min(axis=0)))


def test_what_one_side_alone_knows_is_doubted(pieces: Superpixels) -> None:
    """An object over the right edge; sky above it reaches around both corners."""
    features = np.random.default_rng(4).normal(0, 2, (len(pieces), 3))
    x, y = pieces.centre_N2.T
    is_object = (x > 0.7) & (np.abs(y - 0.65) < 0.2)
    features[y < 0.3] += [0, 40, 0]
    features[is_object] += [40, 0, 0]
    distance = border_distance(features, pieces)
    assert distance[is_object].min() > 2 * distance[~is_object].max()


def test_a_barrier_is_the_range_of_a_path() -> None:
    """A ring of bright cells around a dark one: every path to the dark cell crosses the ring."""
    grid = np.zeros((5, 5))
    grid[1:4, 1:4] = 7
    grid[2, 2] = 1
    expected = np.where(grid > 0, 7, 0)
    found = barrier_distance(grid.reshape(25, 1), grid_of_cells(5))
    assert found.reshape(5, 5).tolist() == expected.tolist()
    grid[1, 2] = 0.5  # a gate in the ring: only what differs from the border counts
    assert barrier_distance(grid.reshape(25, 1), grid_of_cells(5))[12] == pytest.approx(1)


def test_barriers_are_near_those_of_all_paths() -> None:
    """A relaxation may miss the best path, but never finds a better one than there is."""
    rng, gaps = np.random.default_rng(3), []
    values = rng.integers(0, 9, (16, 20)).astype(float)
    for column in values.T:
        found = barrier_distance(column[:, None], grid_of_cells(4))
        exact = exact_barriers(column.reshape(4, 4))
        assert (found >= exact - 1e-12).all()
        gaps.append((found - exact).mean())
    assert np.mean(gaps) < 0.1
    apart = [barrier_distance(column[:, None], grid_of_cells(4)) for column in values.T]
    together = barrier_distance(values, grid_of_cells(4))
    assert together == pytest.approx(np.sum(apart, axis=0)), "features add up"


def grid_of_cells(side: int) -> Superpixels:
    """Superpixels of one pixel each."""
    labels = np.arange(side * side, dtype=np.int32).reshape(side, side)
    around = np.pad(labels, 1, mode="edge")
    neighbours = [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]
    sides = [np.isin(labels, edge).ravel() for edge in (labels[0], labels[-1], *labels.T[[0, -1]])]
    return Superpixels(
        labels_hw=labels,
        area_N=np.ones(side * side),
        centre_N2=np.zeros((side * side, 2)),
        neighbours_NK=np.stack([n.ravel() for n in neighbours], axis=1).astype(np.intp),
        sides_4N=np.array(sides, dtype=np.float64),
    )


def exact_barriers(values: Floats) -> Floats:
    """For each pair of bounds: what the border reaches within them, by flooding."""
    exact = np.full(values.shape, np.inf)
    levels = sorted(set(values.ravel().tolist()))
    for low, high in itertools.combinations_with_replacement(levels, 2):
        allowed = ((values >= low) & (values <= high)).astype(np.uint8)
        _, parts = cv2.connectedComponents(allowed, connectivity=4)
        edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
        is_reached = np.isin(parts, edge[edge > 0])
        exact[is_reached] = np.minimum(exact[is_reached], high - low)
    return exact.ravel()


@pytest.fixture(scope="module")
def learned(pieces: Superpixels) -> tuple[Floats, NDArray[np.bool_]]:
    """Features of superpixels, and which are object: the disc."""
    is_object = np.hypot(*((pieces.centre_N2 * [96, 72] - [70, 26]).T)) < 15
    noise = np.random.default_rng(1).normal(0, 3, (len(pieces), 4))
    return np.array([30.0, 0, 0, 0]) * is_object[:, None] + noise, is_object


def test_mistakes_of_the_first_map_are_mended(
    pieces: Superpixels, learned: tuple[Floats, NDArray[np.bool_]]
) -> None:
    features, is_object = learned
    first = np.where(is_object, 0.8, 0.2)
    first[np.flatnonzero(is_object)[:3]] = 0.3  # missed
    first[np.flatnonzero(~is_object)[:8]] = 0.6  # taken for object
    first[np.flatnonzero(is_object)[-1]] = 1.0
    first[np.flatnonzero(~is_object)[-1]] = 0.0
    even = np.ones(len(pieces))
    found = relearn(first, features, pieces, prior_N=even, rounds=3)
    assert found[is_object].min() > found[~is_object].max()
    assert (found.min(), found.max()) == (0, 1)
    unchanged = relearn(first, features, pieces, prior_N=even, rounds=0)
    assert np.array_equal(unchanged, first)


def test_the_prior_chooses_among_equals(
    pieces: Superpixels, learned: tuple[Floats, NDArray[np.bool_]]
) -> None:
    """Two objects of different colours: the one under the prior teaches what object is."""
    features, is_object = learned
    other = np.hypot(*((pieces.centre_N2 - [0.2, 0.7]).T)) < 0.15
    features = features + np.array([0, 30.0, 0, 0]) * other[:, None]
    first = 0.9 * (is_object | other)
    for wanted, rival in ((is_object, other), (other, is_object)):
        prior = np.where(wanted, 1.0, 0.2)
        found = relearn(first, features, pieces, prior_N=prior, rounds=3)
        assert found[wanted].min() > found[rival].mean()
        assert found[rival].mean() > found[~wanted & ~rival].mean()
