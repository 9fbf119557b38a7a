"""Superpixels cover the image and know their neighbours; features are Lab colour and texture."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.saliency.superpixels import appearance, cut, to_lab


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (96, 128), (97, 101)])
def test_superpixels_against_sums_over_their_pixels(height: int, width: int) -> None:
    pieces = cut(noise(height, width), 100)
    labels = pieces.labels_hw
    values = np.random.default_rng(1).random((height, width), np.float32)
    mean = pieces.mean(values)
    painted = pieces.paint(mean)
    assert labels.shape == painted.shape == (height, width)
    assert painted.dtype == np.float32
    assert set(labels.ravel().tolist()) == set(range(len(pieces)))
    assert pieces.sides_4N.sum(axis=1).tolist() == [width, width, height, height]
    for number in range(len(pieces)):
        inside = labels == number
        y, x = np.nonzero(inside)
        assert pieces.area_N[number] == len(x)
        centre = [(x + 0.5).mean() / width, (y + 0.5).mean() / height]
        assert pieces.centre_N2[number].tolist() == pytest.approx(centre)
        assert mean[number] == pytest.approx(values[inside].mean(), rel=1e-5)
        assert set(painted[inside].tolist()) == {np.float32(mean[number])}


def test_neighbours_share_an_edge() -> None:
    pieces = cut(noise(48, 48), 40)
    labels = pieces.labels_hw
    touching: dict[int, set[int]] = {number: {number} for number in range(len(pieces))}
    for y in range(48):
        for x in range(48):
            for other in (labels[y, min(x + 1, 47)], labels[min(y + 1, 47), x]):
                touching[int(labels[y, x])].add(int(other))
                touching[int(other)].add(int(labels[y, x]))
    for number, row in enumerate(pieces.neighbours_NK):
        assert set(row.tolist()) | {number} == touching[number]


def test_edges_of_the_image_are_kept() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:44, 20:44] = 255
    pieces = cut(image, 60)
    painted = pieces.paint(pieces.mean(image[..., 0].astype(np.float32)))
    assert np.abs(painted - image[..., 0]).mean() < 6


def test_colours_are_mean_lab() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, :32] = (200, 30, 90)
    image[:, 32:] = (20, 180, 60)
    pieces = cut(image, 30)
    features = appearance(image, image, pieces, texture=10)
    assert features.shape == (len(pieces), 8)
    white = to_lab(np.full((1, 1, 3), 255, np.uint8))[0, 0]
    assert white.tolist() == pytest.approx([100, 0, 0], abs=0.02)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    for number in range(len(pieces)):
        inside = pieces.labels_hw == number
        assert features[number, :3] == pytest.approx(lab[inside].mean(axis=0), abs=1e-3)


def test_texture_tells_fine_from_flat_at_the_same_colour() -> None:
    image = np.full((128, 128, 3), 128, np.uint8)
    image[:, 64:] = np.random.default_rng(0).choice([88, 168], (128, 64, 1))
    small = np.asarray(cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA), np.uint8)
    pieces = cut(small, 40)
    is_right, is_left = pieces.centre_N2[:, 0] > 0.6, pieces.centre_N2[:, 0] < 0.4
    features = appearance(image, small, pieces, texture=10)
    gap = features[is_right].mean(axis=0) - features[is_left].mean(axis=0)
    assert abs(gap[0]) < 5
    assert (gap[[3, 4, 6, 7]] > 15).all()
    double = appearance(image, small, pieces, texture=20)
    assert double[:, 3:] == pytest.approx(2 * features[:, 3:])
    assert double[:, :3] == pytest.approx(features[:, :3])


def test_directions_are_told_apart() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = stripes[:, 1::4] = 120
    turned = np.ascontiguousarray(stripes.transpose(1, 0, 2))
    for image, strong, weak in ((stripes, 6, 7), (turned, 7, 6)):
        features = appearance(image, image, cut(image, 30), texture=1)
        assert features[:, strong].mean() > features[:, weak].mean() + 2
