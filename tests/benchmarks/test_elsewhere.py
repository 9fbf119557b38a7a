"""Figures of backbones elsewhere: scenes that share backgrounds, sets that are joined."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.benchmarks.changed_backgrounds import read_picture
from tests.benchmarks.elsewhere import joined, starts_with
from tests.benchmarks.scenes import NUM_BACKGROUNDS, NUM_OTHERS, make_scenes, same_object
from training.evaluate.labelled import open_labelled

GROUPS, SIZE = 2, NUM_OTHERS + 1
OBJECTS_N = torch.arange(GROUPS * SIZE).repeat_interleave(NUM_BACKGROUNDS)


@pytest.mark.parametrize(("of_object", "share"), [(1.0, 1.0), (0.0, 0.0)])
def test_an_encoder_of_objects_and_one_of_backgrounds(of_object: float, share: float) -> None:
    grounds_N = torch.arange(NUM_BACKGROUNDS).repeat(GROUPS * SIZE)
    one_hot: tuple[Tensor, ...] = tuple(
        torch.nn.functional.one_hot(n).float() for n in (OBJECTS_N, grounds_N)
    )
    features_ND = torch.cat([of_object * one_hot[0], (1 - of_object) * one_hot[1]], dim=1)
    found = same_object(features_ND, OBJECTS_N)
    assert found.shape == (GROUPS * SIZE * NUM_BACKGROUNDS * (NUM_BACKGROUNDS - 1),)
    assert found.mean() == share


def test_the_retrieval_is_the_slow_one() -> None:
    features_ND = torch.randn(len(OBJECTS_N), 5, generator=torch.Generator().manual_seed(0))
    scenes = torch.nn.functional.normalize(features_ND, dim=1).view(GROUPS, SIZE, 4, 5).numpy()
    slow = [
        scenes[g, o, a] @ scenes[g, o, b]
        > max(float(scenes[g, o, a] @ scenes[g, p, a]) for p in range(SIZE) if p != o)
        for g in range(GROUPS)
        for o in range(SIZE)
        for a in range(4)
        for b in range(4)
        if b != a
    ]
    found = same_object(features_ND, OBJECTS_N)
    assert found.tolist() == slow
    assert 0 < found.mean() < 0.4  # chance is 1 in 8


def test_scenes_share_backgrounds(tmp_path: Path) -> None:
    """Squares of one grey each on one colour each: eight objects and more."""
    for number in range(14):
        picture = np.full((48, 48, 3), (15 * number, 120, 200 - 10 * number), np.uint8)
        mask = np.zeros((48, 48), np.uint8)
        mask[16:32, 16:32] = 255
        picture[mask > 0] = 10 * number
        for name, pixels, suffix in (("images", picture, "jpg"), ("masks", mask, "png")):
            (tmp_path / name).mkdir(exist_ok=True)
            assert cv2.imwrite(str(tmp_path / name / f"{number:04d}.{suffix}"), pixels)
    out = make_scenes(tmp_path / "images", tmp_path / "masks", tmp_path / "scenes")
    scenes = [read_picture(file) for file in sorted(out.rglob("*.png"))]
    assert len(scenes) == SIZE * NUM_BACKGROUNDS  # 14 objects are one whole group
    pictures = np.stack(scenes).astype(int).reshape(SIZE, NUM_BACKGROUNDS, 48, 48, 3)
    corners = pictures[:, :, :8, :8]
    assert np.abs(corners - corners[:1]).max() == 0  # one background behind all objects
    assert np.abs(corners[:, 1:] - corners[:, :1]).mean() > 5
    middles = pictures[:, :, 20:28, 20:28]
    assert np.abs(middles - middles[:, :1]).max() <= 2  # the object on every background
    images = open_labelled(out)
    assert images.labels().tolist() == OBJECTS_N[: len(scenes)].tolist()


def test_two_sets_are_scored_as_one(tmp_path: Path) -> None:
    for name in ("usual", "changed"):
        for kind in ("cat", "dog"):
            file = tmp_path / name / kind / "1.png"
            file.parent.mkdir(parents=True)
            assert cv2.imwrite(str(file), np.zeros((8, 8, 3), np.uint8))
    sets = {name: tmp_path / name for name in ("usual", "changed")}
    both = open_labelled(joined(tmp_path / "both", sets))
    assert both.num_images == 4
    assert starts_with(both, "usual-").tolist() == [False, True] * 2
    assert both.labels().tolist() == [0, 0, 1, 1]
