"""What is said of encoders that see nothing but the object, or nothing but the background."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing
from tests.shard_sets import write_images
from tests.training.evaluate.cases import case_of, folders, masked_images
from training.evaluate.backgrounds import backgrounds, check_masks, judged, pairs
from training.evaluate.case import Case
from training.evaluate.labelled import LabelledImages, open_labelled
from training.evaluate.results import read_predictions

SIZE = 28
WHOLE = Preprocessing(view_size=SIZE, resize=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
Sets = tuple[LabelledImages, LabelledImages]
Pictures = tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]


def pictures(num: int, seed: int) -> Pictures:
    """Squares of the class's colour on grey noise whose brightness tells the class as well."""
    generator = np.random.default_rng(seed)
    images, masks = [], []
    for kind in np.arange(num) % 3:
        grey = generator.integers(0, 20, (SIZE, SIZE, 1)) + 60 * kind + 40
        image = np.broadcast_to(grey, (SIZE, SIZE, 3)).astype(np.uint8)
        mask = np.zeros((SIZE, SIZE), np.float32)
        top, left = generator.integers(6, 14, 2)
        mask[top : top + 8, left : left + 8] = 1
        image[mask > 0] = np.eye(3, dtype=np.uint8)[kind] * 200
        images.append(image)
        masks.append(mask)
    return images, masks


def made(root: Path, num: int, seed: int) -> LabelledImages:
    images, masks = pictures(num, seed)
    return masked_images(root, images, [number % 3 for number in range(num)], masks, "external")


class SeesColour(nn.Module):
    """The mean chroma: of grey backgrounds it is zero."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return (x_BCHW - x_BCHW.mean(dim=1, keepdim=True)).mean(dim=(2, 3)) + 1e-6


class SeesCorner(nn.Module):
    """The brightness of a corner that no object reaches, as an angle."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        angle_B = 1.5 * x_BCHW[:, :, :5, :5].mean(dim=(1, 2, 3))
        return torch.stack([angle_B.cos(), angle_B.sin()], dim=1)


def case(network: nn.Module, sets: Sets) -> Case:
    return case_of(network, *sets, WHOLE, k=3, batch_size=20)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    root = tmp_path_factory.mktemp("backgrounds")
    return made(root / "train", 30, seed=0), made(root / "val", 24, seed=1)


@pytest.mark.parametrize(
    ("network", "right", "wrong", "gap", "nearer"),
    [
        (SeesColour(), ("original", "same", "other", "all of 8", "object"), (), 0, 100),
        # Always the class of the background, which is another one.
        (SeesCorner(), ("original", "same", "background"), ("other", "all of 8"), 100, 0),
    ],
)
def test_what_an_encoder_sees(
    sets: Sets, network: nn.Module, right: tuple[str], wrong: tuple[str], gap: int, nearer: int
) -> None:
    found = {result.column: result for result in backgrounds(case(network, sets))}
    assert len(found) == 15
    for classifier in ("", " linear"):
        for variant, figure in [(name, 100) for name in right] + [(name, 0) for name in wrong]:
            assert found[f"backgrounds {variant}{classifier}"].figure == figure, variant
        assert found[f"background_gap{classifier}"].figure == gap
        assert found[f"background_gap{classifier}"].interval == (gap, gap)
    if "background" not in right:
        # Nothing of the objects' colours is left: all backgrounds look alike, one class in three.
        assert found["backgrounds background"].figure == pytest.approx(100 / 3)
    assert found["nearer_object"].figure == nearer
    assert found["backgrounds other"].settings["approximate"] is False


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
    assert {name: row.tolist() for name, row in judged(predicted, labels).items()} == {
        "original": [0, 1, 0],
        "same": [0, 1, 1],
        "other": [0, 1, 2],
        "all of 3": [0, 2, 1],
        "object": [0, 0, 0],
        "background": [1, 1, 1],
    }


def test_images_without_an_object_are_left_out_and_counted(sets: Sets, tmp_path: Path) -> None:
    images, masks = pictures(12, seed=0)
    masks[1][:] = 0
    masks[2][:] = 1
    labels = [0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 2]
    val = masked_images(tmp_path, images, labels, masks, "external")
    asked = case_of(SeesColour(), sets[0], val, WHOLE, k=3, results=tmp_path / "left")
    first, *found = backgrounds(asked)
    assert first.num_val == 9
    assert first.settings["left_out"] == {
        "have no object": 1,
        "are filled by their object": 1,
        "are the only ones left of their class": 1,
    }
    left = [f"picture-{number:06d}.png" for number in (0, 3, 4, 5, 6, 7, 8, 9, 10)]
    kept = {tuple(sorted(one.names_V)) for one in read_predictions(asked.config.results)}
    assert kept == {tuple(left)}
    # Class 1 has three images, so an object of class 0 has three backgrounds of other classes.
    assert "all of 3" in {result.variant for result in found}


def test_sets_without_objects(sets: Sets, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"backgrounds needs masks .*folders has none.*--masks"):
        check_masks(folders(tmp_path / "folders", 9, seed=0))
    write_images(tmp_path / "flat", pictures(6, seed=0)[0], [0, 1] * 3, "ab")
    with pytest.raises(InputError, match=r"wants objects of two classes.*of 6 images 6 have no"):
        backgrounds(case(SeesColour(), (sets[0], open_labelled(tmp_path / "flat"))))
