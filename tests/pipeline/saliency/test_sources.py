"""Every saliency source keeps the interface; the default finds objects better than the centre."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.saliency.centre import Centre
from pipeline.saliency.fine_grained import FineGrained
from pipeline.saliency.registry import SALIENCY_SOURCES, make_saliency_source
from pipeline.saliency.score_pairs import pair_up
from pipeline.saliency.scoring import score_sources
from pipeline.saliency.spectral_residual import SpectralResidual

# masks made elsewhere are no maps of the image; scda and onnx want weights
EVERY_SOURCE = sorted(set(SALIENCY_SOURCES) - {"external", "onnx", "scda"})


def disc(height: int = 90, width: int = 120, x: int = 60, y: int = 45) -> NDArray[np.uint8]:
    """A red disc over a green background with a little noise."""
    speckle = np.random.default_rng(0).integers(-12, 12, (height, width, 3))
    image = np.clip(np.array([60, 130, 60]) + speckle, 0, 255).astype(np.uint8)
    cv2.circle(image, (x, y), 20, (200, 40, 40), -1)
    return image


@pytest.mark.parametrize("name", EVERY_SOURCE)
def test_maps_of_any_image_are_maps(name: str) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 1), (1, 300), (300, 1), (2, 3), (40, 60), (225, 300), (900, 40)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    copies = [image.copy() for image in images]
    maps = make_saliency_source(name)(images)
    assert len(maps) == len(images)
    for saliency in maps:
        assert saliency.dtype == np.float32
        assert saliency.ndim == 2
        assert np.isfinite(saliency).all()
        assert 0 <= saliency.min() <= saliency.max() <= 1
    assert all(np.array_equal(a, b) for a, b in zip(images, copies, strict=True))


@pytest.mark.parametrize("name", EVERY_SOURCE)
@pytest.mark.parametrize("level", [0, 127, 255])
def test_a_flat_image_has_a_flat_map(name: str, level: int) -> None:
    for shape in ((1, 1, 3), (64, 64, 3), (300, 200, 3)):
        (saliency,) = make_saliency_source(name)([np.full(shape, level, np.uint8)])
        assert set(saliency.ravel().tolist()) == {0.5}


@pytest.mark.parametrize("name", EVERY_SOURCE)
def test_a_map_does_not_depend_on_the_batch(name: str) -> None:
    source = make_saliency_source(name)
    images = [disc(), disc(120, 90, 40, 60), np.full((50, 50, 3), 9, np.uint8)]
    together = source(images)
    apart = [pickle.loads(pickle.dumps(source))([image])[0] for image in images]
    assert all(np.array_equal(a, b) for a, b in zip(together, apart, strict=True))
    assert source([]) == []


@pytest.mark.parametrize("name", ["boundary", "fine_grained"])
def test_an_object_stands_out(name: str) -> None:
    (saliency,) = make_saliency_source(name)([disc()])
    height, width = saliency.shape
    y, x = np.mgrid[0:height, 0:width]
    inside = (x / width * 120 - 60) ** 2 + (y / height * 90 - 45) ** 2 < 20**2
    assert saliency[inside].mean() > 1.3 * saliency[~inside].mean()


def test_opencv_sees_the_channels_in_its_own_order() -> None:
    red_blue = disc()
    red_blue[:30, :40] = (40, 40, 230)
    for source, algorithm in (
        (SpectralResidual(), cv2.saliency.StaticSaliencySpectralResidual.create()),
        (FineGrained(), cv2.saliency.StaticSaliencyFineGrained.create()),
    ):
        _, raw = algorithm.computeSaliency(cv2.cvtColor(red_blue, cv2.COLOR_RGB2BGR))
        raw = np.asarray(raw, np.float32)
        expected = (raw - raw.min()) / (raw.max() - raw.min())
        assert np.allclose(source([red_blue])[0], expected, atol=1e-6)


def test_parameters_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="saliency centre"):
        Centre(sigma=0)
    with pytest.raises(InputError, match="saliency fine_grained"):
        FineGrained(side=1)
    with pytest.raises(InputError, match="saliency spectral_residual"):
        SpectralResidual(spectrum_side=0)


def test_controls_and_classics_on_photographs(shared_data: Path) -> None:
    folder = shared_data / "saliency_ecssd"
    pairs = pair_up(folder / "images", folder / "masks").paired[::12]
    names = ["boundary", "centre", "fine_grained", "spectral_residual", "uniform"]
    scores = score_sources({name: make_saliency_source(name) for name in names}, pairs)
    auc = {name: score.quality.auc for name, score in scores.items()}
    # measured on all 1,000: boundary 0.952, centre 0.879
    assert auc["boundary"] > auc["centre"] + 0.05
    assert 0.83 < auc["centre"] < 0.92
    assert auc["fine_grained"] > 0.65
    assert auc["spectral_residual"] > 0.60
    assert auc["uniform"] == 0.5
