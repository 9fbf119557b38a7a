"""Superpixels cover the image, know their neighbours, and are the same in every process."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.saliency.superpixels import cut


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 64), (96, 128), (64, 16), (97, 101)])
def test_every_pixel_has_a_superpixel_and_every_superpixel_pixels(height: int, width: int) -> None:
    pieces = cut(noise(height, width), 100)
    assert pieces.labels_hw.shape == (height, width)
    assert set(pieces.labels_hw.ravel().tolist()) == set(range(len(pieces)))
    assert pieces.area_N.sum() == height * width
    assert pieces.area_N.tolist() == np.bincount(pieces.labels_hw.ravel()).tolist()
    assert pieces.sides_4N.sum(axis=1).tolist() == [width, width, height, height]
    for number in range(len(pieces)):
        y, x = np.nonzero(pieces.labels_hw == number)
        centre = [(x + 0.5).mean() / width, (y + 0.5).mean() / height]
        assert pieces.centre_N2[number].tolist() == pytest.approx(centre)


def test_neighbours_share_an_edge() -> None:
    pieces = cut(noise(48, 48), 40)
    labels = pieces.labels_hw
    touching: dict[int, set[int]] = {number: set() for number in range(len(pieces))}
    for y in range(48):
        for x in range(48):
            for other in (labels[y, min(x + 1, 47)], labels[min(y + 1, 47), x]):
                touching[int(labels[y, x])].add(int(other))
                touching[int(other)].add(int(labels[y, x]))
    for number, row in enumerate(pieces.neighbours_NK):
        assert set(row.tolist()) | {number} == touching[number] | {number}


def test_means_and_painting() -> None:
    pieces = cut(noise(32, 40), 30)
    values = np.random.default_rng(1).random((32, 40), np.float32)
    mean = pieces.mean(values)
    painted = pieces.paint(mean)
    assert painted.dtype == np.float32
    for number in range(len(pieces)):
        inside = pieces.labels_hw == number
        assert mean[number] == pytest.approx(values[inside].mean(), rel=1e-5)
        assert set(painted[inside].tolist()) == {np.float32(mean[number])}


def test_edges_of_the_image_are_kept() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:44, 20:44] = 255
    pieces = cut(image, 60)
    painted = pieces.paint(pieces.mean(image[..., 0].astype(np.float32)))
    assert np.abs(painted - image[..., 0]).mean() < 6
