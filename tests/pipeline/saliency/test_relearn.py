"""The classifier that a first map teaches corrects it."""

import cv2
import numpy as np
import pytest

from pipeline.saliency.relearn import relearn
from pipeline.saliency.superpixels import Floats, Superpixels, cut


@pytest.fixture(scope="module")
def scene() -> tuple[Superpixels, Floats, Floats]:
    """Superpixels, their features, and which are object: off-centre."""
    speckle = np.random.default_rng(0).integers(0, 30, (72, 96, 3), dtype=np.uint8)
    cv2.circle(speckle, (70, 26), 16, (180, 60, 40), -1)
    pieces = cut(speckle, 120)
    is_object = (pieces.mean(speckle[..., 0].astype(np.float32)) > 90).astype(np.float64)
    noise = np.random.default_rng(1).normal(0, 3, (len(pieces), 4))
    return pieces, np.array([30.0, 0, 0, 0]) * is_object[:, None] + noise, is_object


def test_mistakes_of_the_first_map_are_mended(scene: tuple[Superpixels, Floats, Floats]) -> None:
    pieces, features, is_object = scene
    first = np.where(is_object > 0, 0.8, 0.2)
    first[np.flatnonzero(is_object)[:3]] = 0.3  # missed
    first[np.flatnonzero(is_object == 0)[:8]] = 0.6  # taken for object
    first[np.flatnonzero(is_object)[-1]] = 1.0
    first[np.flatnonzero(is_object == 0)[-1]] = 0.0
    every = np.ones(len(pieces))
    found = relearn(first, features, pieces, prior_N=every, rounds=3, floor=4.0)
    assert found[is_object > 0].min() > found[is_object == 0].max()
    assert found.min() == 0
    assert found.max() == 1
    unchanged = relearn(first, features, pieces, prior_N=every, rounds=0, floor=4.0)
    assert np.array_equal(unchanged, first)


def test_the_prior_chooses_among_equals(scene: tuple[Superpixels, Floats, Floats]) -> None:
    """Two objects of different colours: the one under the prior teaches what object is."""
    pieces, features, is_object = scene
    other = (np.hypot(pieces.centre_N2[:, 0] - 0.2, pieces.centre_N2[:, 1] - 0.7) < 0.15).astype(
        np.float64
    )
    features = features + np.array([0, 30.0, 0, 0]) * other[:, None]
    first = 0.9 * np.maximum(is_object, other)
    for wanted, rival in ((is_object, other), (other, is_object)):
        prior = np.where(wanted > 0, 1.0, 0.2)
        found = relearn(first, features, pieces, prior_N=prior, rounds=3, floor=4.0)
        assert found[wanted > 0].min() > found[rival > 0].mean()
        assert found[rival > 0].mean() > found[(wanted == 0) & (rival == 0)].mean()
