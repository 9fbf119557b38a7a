"""The cues of the default source on superpixels, against slow references."""

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.saliency.boundary import (
    LEAST_TRUST,
    STRANGE,
    VARIANCE_FLOOR,
    Boundary,
    barrier_distance,
    border_distance,
    relearn,
    stretch,
    weighted_gaussians,
)
from pipeline.saliency.interface import three_channels
from pipeline.saliency.superpixels import Floats, Superpixels, cut


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
    rows = np.stack([np.ones(12), counts])
    (_, squared), (_, log_volume) = weighted_gaussians(features, rows)
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


@pytest.mark.parametrize(
    ("channels", "thirds"),
    [(2, "0/1/1"), (4, "01/2/3"), (5, "01/23/4"), (16, "012345/6789A/BCDEF")],
)
def test_other_channels_are_seen_in_thirds(channels: int, thirds: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (60, 80, channels)).astype(np.uint8)
    image[20:40, 30:55] += np.linspace(0, 190, channels).astype(np.uint8)
    shown = three_channels(image)
    for place, third in enumerate(thirds.split("/")):
        mean = image[..., [int(digit, 16) for digit in third]].mean(axis=2)
        assert np.abs(shown[..., place] - mean).max() <= 0.5
    assert three_channels(shown) is shown
    saliency = cv2.resize(Boundary().map_image(shown), (80, 60))
    assert saliency[22:38, 32:52].mean() > saliency[:15].mean() + 0.4
