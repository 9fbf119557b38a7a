"""Sources by name, with options and refinement, and how they describe themselves."""

import json
import pickle
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.controls import Centre, Uniform
from pipeline.saliency.interface import Image, Map, SaliencySource
from pipeline.saliency.refined import Refined
from pipeline.saliency.registry import (
    SALIENCY_SOURCES,
    describe_saliency_source,
    described_saliency_source,
    make_saliency_source,
    parse_saliency_source,
)
from pipeline.saliency.scda import Scda

WITHOUT_NETWORK = sorted(set(SALIENCY_SOURCES) - {"explain", "learned", "onnx", "scda"})
"""explain, learned and onnx have no default network; the default weights of scda are fetched."""
RANDOM = Scda(weights="random", network="resnet18", side=64)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("centre", Centre()),
        ("centre:sigma=1", Centre(sigma=1)),
        ("boundary:side=64,rounds=0", Boundary(side=64, rounds=0)),
        ("scda:weights=random,network=resnet18,side=64", RANDOM),
        (
            "boundary:rounds=1,refine=true,refine_radius=0.1",
            Refined(base=Boundary(rounds=1), radius=0.1),
        ),
    ],
)
def test_one_word_says_name_and_options(text: str, source: SaliencySource) -> None:
    assert parse_saliency_source(text) == source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nope", f"nope.*{', '.join(SALIENCY_SOURCES)}"),
        ("boundary:strip=0.1", "no option 'strip'.*side, num_superpixels.*refine, refine_side"),
        ("uniform:sigma=1.0", r"uniform has no option 'sigma'.* are refine, "),
        ("boundary:rounds", "wanted is name:option=value"),
        ("boundary:=1", "wanted is name:option=value"),
        ("boundary:rounds=1,rounds=2", "wanted is name:option=value"),
        ("boundary:rounds=many", "whole number, got 'many'"),
        ("boundary:side=64.5", "side to be a whole number, got 64.5"),
        ("boundary:side=true", "side to be a whole number, got True"),
        ("boundary:prior_sigma=null", "prior_sigma to be a number, got None"),
        ("boundary:prior_sigma=NaN", "prior_sigma to be a number, got nan"),
        ("boundary:prior_sigma=-1", "prior_sigma that is not negative"),
        ("centre:sigma=Infinity", "sigma to be a number, got inf"),
        ("boundary:rounds=[1]", r"got '\[1\]'"),
        ("boundary:refine=1", "refine to be true or false, got 1"),
        ("boundary:refine_side=64", "refine_side is for refine=true only"),
        ("boundary:refine=false,refine_radius=0.1", "refine_radius is for refine=true only"),
        ("boundary:refine=true,refine_radius=0.0", "refine_radius in"),
        ("boundary:second_look_margin=2", "second_look_margin is for second_look=true only"),
        ("boundary:second_look=true,second_look_threshold=9", "second_look_threshold in -5"),
        ("boundary:second_look=true,second_look_least=2", "second_look_least in 0"),
        ("boundary:second_look=true,second_look_margin=56", "second_look_margin in 0"),
        ("boundary:second_look=true,second_look_most=0", "second_look_most above 0"),
        ("external:missing=maybe", "missing to be error or uniform"),
        ("scda:weights=1", "weights to be text, got 1"),
        ("boundary:side=8", "wants a side in"),
        ("boundary:num_superpixels=4", "wants a side in"),
        ("boundary:detail_side=5000", "wants a side in"),
        ("boundary:texture=-1", "wants texture in"),
        ("boundary:rounds=-1", "rounds in"),
        ("boundary:prior_sigma=-0.1", "a prior_sigma that is not negative"),
        ("centre:sigma=0", "saliency centre"),
        ("fine_grained:side=1", "saliency fine_grained"),
        ("spectral_residual:spectrum_side=0", "saliency spectral_residual"),
        ("scda:side=100", "multiple of 32"),
        ("scda:side=-32", "multiple of 32"),
        ("scda:side=4096", "up to 2048"),
        ("scda:side=64,edges=reflect", "side above 64"),
        ("scda:edges=wrap", "edges to be zero or reflect"),
        ("scda:precision=float16", "auto or float32 or bfloat16"),
        ("scda:weights=", "a torchvision name, a file or a folder"),
    ],
)
def test_what_does_not_fit_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_saliency_source(text)


def test_a_description_is_canonical_and_makes_the_source_again() -> None:
    refined = make_saliency_source("centre", refine=True, refine_side=64)
    assert describe_saliency_source("centre", refined) == {
        "source": "centre",
        "sigma": 0.5,
        "refine": {"side": 64, "radius": 0.06, "smoothness": 1e-3},
    }
    assert described_saliency_source(describe_saliency_source("centre", refined)) == refined
    assert described_saliency_source(describe_saliency_source("scda", RANDOM)) == RANDOM.pinned()
    for name in WITHOUT_NETWORK:
        source = make_saliency_source(name)
        described = describe_saliency_source(name, source)
        assert json.loads(json.dumps(described)) == described
        if name != "external":
            assert described_saliency_source(described) == source
    for name in ("external", "of a later version"):
        with pytest.raises(InputError, match=f"of source {name} cannot be computed anew"):
            described_saliency_source({"source": name})


@pytest.mark.parametrize("name", WITHOUT_NETWORK)
def test_a_refined_source_is_a_source(name: str) -> None:
    source = make_saliency_source(name, refine=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in ((1, 1), (1, 90), (70, 40))]
    again = pickle.loads(pickle.dumps(source))
    for first, second in zip(source(images), again(images), strict=True):
        assert first.dtype == np.float32
        assert 0 <= first.min() <= first.max() <= 1
        assert np.array_equal(first, second)


def test_a_refined_source_with_weights_is_still_one() -> None:
    refined = Refined(base=RANDOM)
    assert (refined.wants_gpu, refined.batch_images) == (True, 64)
    assert refined.pinned() == Refined(base=RANDOM.pinned()) != refined
    assert refined.parameters()["weights_digest"] == RANDOM.pinned().weights_digest
    assert not Refined(base=Uniform()).wants_gpu


@dataclass(frozen=True, kw_only=True)
class Blurred(SaliencySource):
    """Knows where the object is, but not its edges."""

    sigma: float = 6.0

    def map_image(self, image: Image) -> Map:
        return np.asarray(cv2.GaussianBlur(is_object(), (0, 0), self.sigma), np.float32)


def test_a_new_source_is_a_class_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SALIENCY_SOURCES, "blurred", Blurred)
    source = parse_saliency_source("blurred:sigma=3,refine=true")
    assert source == Refined(base=Blurred(sigma=3))
    assert described_saliency_source(describe_saliency_source("blurred", source)) == source


def is_object() -> NDArray[np.float32]:
    mask = np.zeros((100, 140), np.float32)
    mask[30:70, 50:100] = 1
    return mask


def test_refining_brings_back_the_edges_that_the_image_has() -> None:
    speckle = np.random.default_rng(0).integers(-6, 7, (100, 140, 3))
    colours = np.where(is_object()[..., None] > 0, (200, 80, 60), (60, 110, 80))
    picture = (colours + speckle).astype(np.uint8)
    (before,) = Blurred()([picture])
    (after,) = Refined(base=Blurred(), side=100, radius=0.12)([picture])
    assert after.shape == before.shape
    assert before[50, 50] - before[50, 49] < 0.1  # across the object's left edge
    assert after[50, 50] - after[50, 49] > 0.4
    # and no new ones elsewhere: neighbours inside the background stay alike
    assert np.abs(np.diff(after[10:20], axis=1)).max() < 0.05
    large = cv2.resize(picture, (1400, 1000), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    assert Refined(base=Blurred(), side=50)([large])[0].shape == (50, 70), "filtered small"
    (flat,) = Refined(base=Uniform())([picture])
    assert set(flat.ravel().tolist()) == {0.5}
