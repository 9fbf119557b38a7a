"""Features of superpixels: Lab as OpenCV has it, texture in logarithms."""

import cv2
import numpy as np
import pytest

from pipeline.saliency.appearance import appearance, to_lab
from pipeline.saliency.superpixels import cut


def test_colours_are_mean_lab() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = (200, 30, 90)
    image[:, 32:] = (20, 180, 60)
    pieces = cut(image, 30)
    features = appearance(image, image, pieces, detail_side=64, texture=10)
    assert features.shape == (len(pieces), 8)
    assert to_lab(np.full((1, 1, 3), 255, np.uint8))[0, 0].tolist() == pytest.approx(
        [100, 0, 0], abs=0.02
    )
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    for number in range(len(pieces)):
        inside = pieces.labels_hw == number
        assert features[number, :3] == pytest.approx(lab[inside].mean(axis=0), abs=1e-3)


def test_texture_tells_fine_from_flat_at_the_same_colour() -> None:
    rng = np.random.default_rng(0)
    image = np.full((128, 128, 3), 128, np.uint8)
    checks = rng.choice([88, 168], (128, 64, 1))
    image[:, 64:] = checks
    small = np.asarray(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
    pieces = cut(small, 40)
    is_right = pieces.centre_N2[:, 0] > 0.6
    is_left = pieces.centre_N2[:, 0] < 0.4
    features = appearance(image, small, pieces, detail_side=128, texture=10)
    gap = features[is_right].mean(axis=0) - features[is_left].mean(axis=0)
    assert abs(gap[0]) < 5
    assert (gap[[3, 4, 6, 7]] > 15).all()
    # a share of the strength is a difference, whatever the weight
    double = appearance(image, small, pieces, detail_side=128, texture=20)
    assert double[:, 3:] == pytest.approx(2 * features[:, 3:])
    assert double[:, :3] == pytest.approx(features[:, :3])


def test_directions_are_told_apart() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 120
    pieces = cut(stripes, 30)
    across = appearance(stripes, stripes, pieces, detail_side=64, texture=1)
    turned = np.ascontiguousarray(stripes.transpose(1, 0, 2))
    down = appearance(turned, turned, cut(turned, 30), detail_side=64, texture=1)
    assert across[:, 6].mean() > across[:, 7].mean() + 2
    assert down[:, 7].mean() > down[:, 6].mean() + 2
