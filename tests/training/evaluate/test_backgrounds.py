"""What is said of encoders that see nothing but the object, or nothing but the background."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocess, Preprocessing
from tests.shard_sets import write_images
from tests.training.evaluate.cases import colours_subject, write_folders
from training.evaluate.backgrounds import (
    BackgroundsConfig,
    check_masks,
    judged,
    pairs,
    swap_backgrounds,
)
from training.evaluate.config import EvaluateConfig
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.protocols import PROTOCOLS, Case
from training.evaluate.results import Result

CPU = torch.device("cpu")
SIZE = 28
CLASSES = ("r", "g", "b")


def picture(
    number: int, generator: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A square of the class's colour on grey noise whose brightness tells the class as well."""
    kind = number % 3
    grey = generator.integers(0, 20, (SIZE, SIZE, 1)) + 60 * kind + 40
    image = np.broadcast_to(grey, (SIZE, SIZE, 3)).astype(np.uint8)
    mask = np.zeros((SIZE, SIZE), np.float32)
    top, left = generator.integers(6, 14, 2)
    mask[top : top + 8, left : left + 8] = 1
    image[mask > 0] = np.eye(3, dtype=np.uint8)[kind] * 200
    return image, mask


def images(root: Path, num: int, seed: int, source: str = "external") -> LabelledImages:
    """A shard set; `source` is where its maps are said to come from."""
    generator = np.random.default_rng(seed)
    made, masks = zip(*(picture(number, generator) for number in range(num)), strict=True)
    write_images(root, made, [number % 3 for number in range(num)], CLASSES, saliency=masks)
    info = root / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"saliency": {"source": source}}))
    return open_labelled(root)


class SeesColour(nn.Module):
    """The mean chroma: of grey backgrounds it is zero."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return (x_BCHW - x_BCHW.mean(dim=1, keepdim=True)).mean(dim=(2, 3)) + 1e-6


class SeesCorner(nn.Module):
    """The brightness of a corner that no object reaches, as an angle."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        angle_B = 1.5 * x_BCHW[:, :, :5, :5].mean(dim=(1, 2, 3))
        return torch.stack([angle_B.cos(), angle_B.sin()], dim=1)


def case(network: nn.Module, train: LabelledImages, val: LabelledImages) -> Case:
    whole = Preprocessing(view_size=SIZE, resize=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    made = colours_subject()
    subject = replace(
        made,
        network=network.eval(),
        info=replace(made.info, preprocessing=whole),
        prepare=Preprocess(whole).prepare,
    )
    config = EvaluateConfig(
        checkpoint=("run",), train=Path("train"), val=Path("val"), k=3, batch_size=20
    )
    return Case(subject, train, val, config, CPU)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledImages, LabelledImages]:
    root = tmp_path_factory.mktemp("backgrounds")
    return images(root / "train", 30, seed=0), images(root / "val", 24, seed=1)


def figures(network: nn.Module, sets: tuple[LabelledImages, LabelledImages]) -> dict[str, Result]:
    return {result.column: result for result in PROTOCOLS["backgrounds"](case(network, *sets))}


def test_an_encoder_that_sees_the_object(sets: tuple[LabelledImages, LabelledImages]) -> None:
    found = figures(SeesColour(), sets)
    for classifier in ("", " linear"):
        for variant in ("original", "same", "other", "any of 8", "object"):
            assert found[f"backgrounds {variant}{classifier}"].figure == 100, variant
        assert found[f"background_gap{classifier}"].figure == 0
    # Nothing of the objects' colours is left: all backgrounds look alike, one class in three.
    assert found["backgrounds background"].figure == pytest.approx(100 / 3)
    assert found["nearer_object"].figure == 100
    assert found["backgrounds other"].settings["approximate"] is False
    assert len(found) == 15


def test_an_encoder_that_sees_the_background(sets: tuple[LabelledImages, LabelledImages]) -> None:
    found = figures(SeesCorner(), sets)
    for classifier in ("", " linear"):
        for variant in ("original", "same", "background"):
            assert found[f"backgrounds {variant}{classifier}"].figure == 100, variant
        # Always the class of the background, which is another one.
        for variant in ("other", "any of 8"):
            assert found[f"backgrounds {variant}{classifier}"].figure == 0, variant
        assert found[f"background_gap{classifier}"].figure == 100
        assert found[f"background_gap{classifier}"].interval == (100, 100)
    assert found["nearer_object"].figure == 0


def test_maps_that_are_no_masks_are_said_to_be_approximate(
    sets: tuple[LabelledImages, LabelledImages], tmp_path: Path
) -> None:
    found = figures(SeesColour(), (sets[0], images(tmp_path / "maps", 24, seed=1, source="made")))
    assert all(column.endswith("approximate") for column in found)
    assert all(result.settings["approximate"] for result in found.values())
    # These maps are masks all the same.
    assert found["backgrounds other linear approximate"].figure == 100


def test_pairs_are_a_function_of_seed_and_image() -> None:
    numbers, labels = np.arange(40), np.arange(40) % 4
    same, others = pairs(numbers, labels, 8, seed=3)
    assert others.shape == (8, 40)
    assert (labels[same] == labels).all()
    assert (same != numbers).all()
    assert (labels[others] != labels).all()
    assert all(len(set(column)) == 8 for column in others.T)
    again = pairs(numbers, labels, 8, seed=3)
    assert np.array_equal(again[0], same)
    assert np.array_equal(again[1], others)
    assert not np.array_equal(pairs(numbers, labels, 8, seed=4)[1], others)
    assert len(np.unique(others)) == 40, "every background is used"
    assert pairs(numbers[:4], labels[:4] // 2, 8, seed=3)[1].shape == (2, 4)


def test_judged_by_hand() -> None:
    labels = torch.tensor([0, 1, 2])
    predicted = torch.tensor(
        [[0, 1, 0], [0, 1, 1], [0, 1, 2], [0, 2, 2], [0, 0, 1], [0, 0, 0], [1, 1, 1]]
    )
    found = judged(predicted, labels)
    assert {name: row.tolist() for name, row in found.items()} == {
        "original": [0, 1, 0],
        "same": [0, 1, 1],
        "other": [0, 1, 2],
        "any of 3": [0, 2, 1],
        "object": [0, 0, 0],
        "background": [1, 1, 1],
    }


def test_images_without_an_object_are_left_out_and_counted(
    sets: tuple[LabelledImages, LabelledImages], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    made, masks = map(list, zip(*(picture(n, generator) for n in range(12)), strict=True))
    masks[1][:] = 0
    masks[2][:] = 1
    labels = [0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 2]
    write_images(tmp_path / "val", made, labels, CLASSES, saliency=masks)
    info = tmp_path / "val" / "dataset.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"saliency": {"source": "external"}}))
    val = open_labelled(tmp_path / "val")
    asked = case(SeesColour(), sets[0], val)
    swapped = swap_backgrounds(
        asked.subject,
        val,
        BackgroundsConfig(),
        asked.extract,
        features_VD=asked.features_val[0],
        device=CPU,
        seed=0,
    )
    assert swapped.numbers_K.tolist() == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    assert swapped.left_out == {
        "have no object": 1,
        "are filled by their object": 1,
        "are the only ones left of their class": 1,
    }
    (first, *_) = PROTOCOLS["backgrounds"](asked)
    assert first.num_val == 9
    assert first.settings["left_out"] == swapped.left_out
    # Class 1 has three images, so an object of class 0 has three backgrounds of other classes.
    assert swapped.features_XKD.shape == (4 + 3, 9, 3)


def test_bad_input(sets: tuple[LabelledImages, LabelledImages], tmp_path: Path) -> None:
    folders = open_labelled(write_folders(tmp_path / "folders", 9, seed=0))
    with pytest.raises(InputError, match=r"backgrounds needs masks .*folders has none.*--masks"):
        check_masks(folders)
    write_images(tmp_path / "flat", [picture(0, np.random.default_rng(0))[0]] * 6, [0, 1] * 3, "ab")
    flat = case(SeesColour(), sets[0], open_labelled(tmp_path / "flat"))
    with pytest.raises(InputError, match=r"wants objects of two classes.*of 6 images 6 have no"):
        PROTOCOLS["backgrounds"](flat)
    for settings in ({"backgrounds": 0}, {"max_images": 1}, {"min_object": 0.9}):
        with pytest.raises(InputError, match=r"backgrounds\.(backgrounds|min_object)"):
            BackgroundsConfig(**settings)
