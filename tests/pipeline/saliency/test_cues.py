"""The cues against slow references, on superpixels of a small picture."""

import itertools

import cv2
import numpy as np
import pytest

from pipeline.saliency.cues import (
    BARRIER_SWEEPS,
    LEAST_TRUST,
    STRANGE,
    barrier_distance,
    border_distance,
    stretch,
    weighted_gaussian,
)
from pipeline.saliency.superpixels import Floats, Superpixels, cut


@pytest.fixture(scope="module")
def pieces() -> Superpixels:
    image = np.random.default_rng(0).integers(0, 90, (48, 64, 3), dtype=np.uint8)
    cv2.circle(image, (30, 24), 12, (220, 60, 40), -1)
    return cut(image, 40)


@pytest.fixture(scope="module")
def features(pieces: Superpixels) -> Floats:
    return np.random.default_rng(1).normal(0, 10, (len(pieces), 4))


def test_stretch() -> None:
    assert stretch(np.array([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert stretch(np.array([5.0, 5.0])).tolist() == [0, 0]


def test_a_weighted_gaussian_is_that_of_repeated_samples() -> None:
    rng = np.random.default_rng(2)
    features, counts = rng.normal(0, 5, (12, 3)), rng.integers(0, 5, 12)
    squared, log_volume = weighted_gaussian(features, counts.astype(np.float64), 2.0)
    repeated = np.repeat(features, counts, axis=0)
    covariance = np.cov(repeated.T, bias=True) + 2 * np.eye(3)
    offset = features - repeated.mean(axis=0)
    expected = [float(o @ np.linalg.inv(covariance) @ o) for o in offset]
    assert squared == pytest.approx(expected)
    assert log_volume == pytest.approx(np.log(np.linalg.det(covariance)))


def test_the_border_distance_is_to_the_side_that_is_most_alike(
    pieces: Superpixels, features: Floats
) -> None:
    labels = pieces.labels_hw
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])

    def distances(trust: Floats) -> Floats:
        """To each side, whose superpixels count as often as they have pixels on the edge."""
        rows = []
        for edge, weights in zip(edges, trust, strict=True):
            samples, weight = features[edge], weights[edge]
            mean = np.average(samples, axis=0, weights=weight)
            inverse = np.linalg.inv(
                np.cov(samples.T, bias=True, aweights=weight) + 4 * np.eye(features.shape[1])
            )
            rows.append([float((f - mean) @ inverse @ (f - mean)) for f in features])
        return np.array(rows)

    first = distances(np.ones((4, len(pieces))))
    elsewhere = np.array([np.delete(first, side, axis=0).min(axis=0) for side in range(4)])
    second = distances(np.exp(-elsewhere / (2 * STRANGE**2)) + LEAST_TRUST)
    expected = np.sqrt(second.min(axis=0))
    assert border_distance(features, pieces, 4.0) == pytest.approx(expected)


def test_what_one_side_alone_knows_is_doubted(pieces: Superpixels) -> None:
    """An object over the right edge; sky above it reaches around both corners."""
    rng = np.random.default_rng(4)
    features = rng.normal(0, 2, (len(pieces), 3))
    x, y = pieces.centre_N2.T
    is_sky = y < 0.3
    is_object = (x > 0.7) & (np.abs(y - 0.65) < 0.2)
    features[is_sky] += [0, 40, 0]
    features[is_object] += [40, 0, 0]
    distance = border_distance(features, pieces, 4.0)
    assert distance[is_object].min() > 2 * distance[~is_object].max()


def test_a_barrier_is_the_range_of_a_path() -> None:
    """A ring of bright cells around a dark one: the dark cell is behind the barrier."""
    grid = np.zeros((5, 5))
    grid[1:4, 1:4] = 7
    grid[2, 2] = 1
    cells = _grid_of_cells(5)
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 7  # also in the middle: every path crosses the ring
    found = barrier_distance(grid.reshape(25, 1), cells)
    assert found.reshape(5, 5).tolist() == expected.tolist()
    # a gate in the ring: only what differs from the border counts
    grid[1, 2] = 0.5
    found = barrier_distance(grid.reshape(25, 1), cells)
    assert found[12] == pytest.approx(1)


def test_barriers_are_near_those_of_all_paths() -> None:
    """A relaxation may miss the best path, but never finds a better one than there is."""
    rng = np.random.default_rng(3)
    cells = _grid_of_cells(4)
    gaps = []
    for _ in range(20):
        values = rng.integers(0, 9, 16).astype(float)
        found = barrier_distance(values[:, None], cells)
        exact = _exact_barriers(values.reshape(4, 4))
        assert (found >= exact - 1e-12).all()
        gaps.append((found - exact).mean())
    assert np.mean(gaps) < 0.1
    assert BARRIER_SWEEPS > 4


def test_features_add_up(pieces: Superpixels, features: Floats) -> None:
    apart = [barrier_distance(features[:, [d]], pieces) for d in range(4)]
    assert barrier_distance(features, pieces) == pytest.approx(np.sum(apart, axis=0))


def _grid_of_cells(side: int) -> Superpixels:
    """Superpixels of one pixel each."""
    labels = np.arange(side * side, dtype=np.int32).reshape(side, side)
    neighbours = []
    for y, x in itertools.product(range(side), repeat=2):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        inside = [(a, b) if 0 <= a < side and 0 <= b < side else (y, x) for a, b in around]
        neighbours.append([labels[place] for place in inside])
    sides = [np.isin(labels, edge).ravel() for edge in (labels[0], labels[-1], *labels.T[[0, -1]])]
    return Superpixels(
        labels_hw=labels,
        area_N=np.ones(side * side),
        centre_N2=np.zeros((side * side, 2)),
        neighbours_NK=np.array(neighbours, dtype=np.intp),
        sides_4N=np.array(sides, dtype=np.float64),
    )


def _exact_barriers(values: Floats) -> Floats:
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
