"""Maps of an explainer keep the interface; what is no explainer is named in one line."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.saliency.explain import Explain
from pipeline.saliency.explain_network import (
    INFO_FILE,
    WEIGHTS_FILE,
    MaskNetwork,
    load_explainer,
    masks_of,
    write_explainer,
)
from pipeline.saliency.registry import (
    describe_saliency_source,
    described_saliency_source,
    parse_saliency_source,
)
from tests.picture_folders import write_pictures
from tests.pipeline.saliency.test_sources import disc


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An explainer that nobody trained. Those of earlier tests are forgotten."""
    load_explainer.cache_clear()
    write_explainer(tmp_path / "explainer", MaskNetwork(4), {"check": {}})
    return tmp_path / "explainer"


def test_masks_are_56_cells_of_squares_of_any_size() -> None:
    network = MaskNetwork(8)
    images = torch.rand(3, 3, 224, 224)
    masks = network(images)
    assert masks.shape == (3, 1, 56, 56)
    assert 0 <= masks.min() < masks.max() <= 1
    torch.testing.assert_close(network(images[1:2]), masks[1:2])  # norms are per image
    assert network(images[:, :, ::7, ::7]).shape == (3, 1, 56, 56)
    pixels = (255 * images).to(torch.uint8)
    found = masks_of(network, pixels.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(torch.from_numpy(found)[:, None], network(pixels / 255).detach())


def test_maps_of_any_image_are_maps_whatever_the_batch(folder: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(1, 300), (300, 1), (2, 3), (40, 60), (900, 40)] * 8  # more than a batch
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    images += [np.full((50, 60, 3), 90, np.uint8)]
    source = Explain(weights=str(folder))
    again = pickle.loads(pickle.dumps(source.pinned()))
    for image, saliency in zip(images[:-1], source(images), strict=False):
        assert saliency.shape == (56, 56)
        assert saliency.dtype == np.float32
        assert 0 <= saliency.min() <= saliency.max() <= 1
        assert np.abs(saliency - again([image])[0]).max() <= 1 / 255
    assert source(images)[-1].tolist() == [[0.5]]
    assert source([]) == []


def test_a_source_is_bound_to_its_weights(folder: Path) -> None:
    source = parse_saliency_source(f"explain:weights={folder}")
    described = describe_saliency_source("explain", source)
    assert json.loads(json.dumps(described)) == described
    assert described["weights"] == "explainer"
    assert len(str(described["weights_digest"])) == 64
    with pytest.raises(InputError, match="of source explain cannot be computed anew"):
        described_saliency_source(described)
    pinned = source.pinned()
    write_explainer(folder, MaskNetwork(4), {})
    load_explainer.cache_clear()  # as in another process
    with pytest.raises(InputError, match=r"have digest .* planned with"):
        pinned([disc()])
    assert source.parameters()["weights_digest"] != described["weights_digest"]


def test_what_is_no_explainer_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wants explain:weights=FOLDER"):
        parse_saliency_source("explain")
    for absent in (tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=r"no finished explainer: wanted the --out of"):
            Explain(weights=str(absent)).pinned()
    info, weights = folder / INFO_FILE, folder / WEIGHTS_FILE
    good, other = info.read_text(), MaskNetwork(4).state_dict()
    damages: list[tuple[Callable[[], object], str]] = [
        (lambda: info.write_text("{"), "cannot be used"),
        (lambda: info.write_text(good.replace('version": 1', 'version": 2')), "format version 2"),
        (lambda: info.write_text(good.replace('width": 4', 'width": 8')), "size mismatch"),
        (lambda: torch.save(other, weights), "another digest"),
        (lambda: weights.write_bytes(b"no weights"), "cannot be used"),
    ]
    for damage, words in damages:
        info.write_text(good)
        damage()
        with pytest.raises(InputError, match=rf"{folder} .*{words}.*: train it again") as error:
            Explain(weights=str(folder)).parameters()
        assert "\n" not in str(error.value)


def test_shards_are_made_with_it(folder: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "images", 4)
    saliency, out = f"explain:weights={folder}", tmp_path / "shards"
    run_precompute(PrecomputeConfig(data=tmp_path / "images", out=out, saliency=saliency))
    described = json.loads((out / "dataset.json").read_text())["saliency"]
    assert described == {"source": "explain", **Explain(weights=str(folder)).parameters()}
