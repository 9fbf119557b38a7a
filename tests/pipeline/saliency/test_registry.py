"""Sources by name, with options, and how they describe themselves."""

import json
import pickle

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.saliency.boundary import Boundary
from pipeline.saliency.centre import Centre
from pipeline.saliency.refined import Refined
from pipeline.saliency.registry import (
    SALIENCY_SOURCES,
    describe_saliency_source,
    make_saliency_source,
    parse_saliency_source,
)

WITHOUT_NETWORK = sorted(set(SALIENCY_SOURCES) - {"onnx", "scda"})
"""onnx has no default model; the default weights of scda are fetched."""


def test_a_source_is_made_with_its_options() -> None:
    assert make_saliency_source("centre") == Centre()
    assert make_saliency_source("centre", sigma=0.3) == Centre(sigma=0.3)
    assert make_saliency_source("centre", sigma=1) == Centre(sigma=1)
    assert make_saliency_source("boundary", side=64, rounds=0) == Boundary(side=64, rounds=0)


def test_unknown_names_and_options_list_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"nope.*boundary, centre, external, fine_grained"):
        make_saliency_source("nope")
    known = "side, num_superpixels, detail_side, texture, rounds, prior_sigma, refine, refine_side"
    with pytest.raises(InputError, match=f"boundary has no option 'strip'.*{known}"):
        make_saliency_source("boundary", strip=0.1)
    with pytest.raises(InputError, match=r"uniform has no option 'sigma'.* are refine, "):
        make_saliency_source("uniform", sigma=1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"side": "wide"}, "side to be a whole number, got 'wide'"),
        ({"side": 64.5}, "side to be a whole number, got 64.5"),
        ({"side": True}, "side to be a whole number, got True"),
        ({"prior_sigma": None}, "prior_sigma to be a number, got None"),
        ({"refine": 1}, "refine to be true or false, got 1"),
        ({"refine_side": 64}, "refine_side is for refine=true only"),
        ({"refine": False, "refine_radius": 0.1}, "refine_radius is for refine=true only"),
        ({"refine": True, "refine_radius": 0.0}, "refine_radius in"),
        ({"side": 4}, "a side in"),
        ({"prior_sigma": float("nan")}, "prior_sigma"),
        ({"rounds": 11}, "rounds in"),
    ],
)
def test_values_that_do_not_fit_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_saliency_source("boundary", **options)


def test_one_word_says_name_and_options() -> None:
    assert parse_saliency_source("centre") == Centre()
    assert parse_saliency_source("centre:sigma=0.3") == Centre(sigma=0.3)
    refined = parse_saliency_source("boundary:rounds=1,refine=true,refine_radius=0.1")
    assert refined == Refined(base=Boundary(rounds=1), radius=0.1)
    for wrong in ("boundary:rounds", "boundary:=1", "boundary:rounds=1,rounds=2"):
        with pytest.raises(InputError, match="wanted is name:option=value"):
            parse_saliency_source(wrong)
    with pytest.raises(InputError, match="whole number, got 'many'"):
        parse_saliency_source("boundary:rounds=many")


def test_a_description_is_canonical() -> None:
    assert describe_saliency_source("centre", Centre(sigma=0.3)) == {
        "source": "centre",
        "sigma": 0.3,
    }
    refined = make_saliency_source("centre", refine=True, refine_side=64)
    assert describe_saliency_source("centre", refined) == {
        "source": "centre",
        "sigma": 0.5,
        "refine": {"side": 64, "radius": 0.06, "smoothness": 1e-3},
    }
    for name in WITHOUT_NETWORK:
        described = describe_saliency_source(name, make_saliency_source(name))
        assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize("name", WITHOUT_NETWORK)
def test_a_refined_source_is_a_source(name: str) -> None:
    source = make_saliency_source(name, refine=True)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*s, 3), dtype=np.uint8) for s in ((1, 1), (1, 90), (70, 40))]
    again = pickle.loads(pickle.dumps(source))
    for first, second in zip(source(images), again(images), strict=True):
        assert first.dtype == np.float32
        assert np.isfinite(first).all()
        assert 0 <= first.min() <= first.max() <= 1
        assert np.array_equal(first, second)
