"""The demo pictures: reproducible, balanced, masked rightly, told apart by their objects alone."""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.demo.pictures import KINDS, draw_picture, make_demo_pictures
from pipeline.errors import InputError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    make_demo_pictures(out, num_train=320, num_val=80, seed=3)
    return out


def files(folder: Path) -> dict[str, str]:
    found = [p for p in folder.rglob("*") if p.is_file()]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in found
    }


def pictures(
    demo: Path, split: str
) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]], NDArray[np.int64]]:
    """All pictures of a split, BGR, their backgrounds (255 there), and each one's kind."""
    paths = sorted((demo / "pictures" / split).rglob("*.jpg"))
    masks = [demo / "masks" / split / p.parent.name / f"{p.stem}.png" for p in paths]
    read = [np.asarray(cv2.imread(str(p)), np.uint8) for p in paths]
    behind = [255 - np.asarray(cv2.imread(str(m), cv2.IMREAD_GRAYSCALE), np.uint8) for m in masks]
    return read, behind, np.array([KINDS.index(p.parent.name) for p in paths])


def test_layout_and_balance(demo: Path) -> None:
    for split, each in (("train", 40), ("val", 10)):
        for kind in KINDS:
            names = [f"{kind}-{n:04d}" for n in range(1, each + 1)]
            drawn = sorted((demo / "pictures" / split / kind).iterdir())
            masks = sorted((demo / "masks" / split / kind).iterdir())
            assert [p.name for p in drawn] == [f"{n}.jpg" for n in names]
            assert [p.name for p in masks] == [f"{n}.png" for n in names]
    assert len(KINDS) == 8
    assert sorted(p.name for p in (demo / "pictures" / "train").iterdir()) == sorted(KINDS)
    told = json.loads((demo / "demo.json").read_text())
    assert (told["num_train"], told["num_val"], told["seed"]) == (320, 80, 3)
    assert not (demo / "unfinished.json").exists()


def test_same_parameters_same_bytes_and_other_seed_other_pictures(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        make_demo_pictures(tmp_path / name, num_train=16, num_val=8, seed=seed, size=96)
    one, two, other = (files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_no_two_pictures_are_equal(demo: Path) -> None:
    digests = list(files(demo / "pictures").values())
    assert len(digests) == 400
    assert len(set(digests)) == 400


def test_a_larger_set_starts_with_the_smaller(demo: Path, tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "small", num_train=8, num_val=8, seed=3)
    small, large = files(tmp_path / "small" / "pictures"), files(demo / "pictures")
    assert small.items() <= large.items()


def test_masks_are_binary_of_the_pictures_size_and_cover_a_fair_share(demo: Path) -> None:
    shares, middles = [], []
    for path in sorted((demo / "masks" / "train").rglob("*.png")):
        mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        picture = demo / "pictures" / "train" / path.parent.name / f"{path.stem}.jpg"
        pixels = np.asarray(cv2.imread(str(picture)))
        assert mask.shape == pixels.shape[:2]
        assert min(mask.shape) >= 144
        assert max(mask.shape) <= 176
        assert set(np.unique(mask).tolist()) == {0, 255}
        shares.append(float((mask > 0).mean()))
        rows, columns = np.nonzero(mask)
        middles.append((rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]))
    assert min(shares) >= 0.14
    assert max(shares) <= 0.42
    # Not only in the centre: what a centre prior cannot know.
    assert np.std(middles, axis=0).min() > 0.07
    np.testing.assert_allclose(np.mean(middles, axis=0), 0.5, atol=0.04)


def test_the_mask_lies_on_the_object(demo: Path) -> None:
    """Across a mask's border colours change more than across the border of a shifted mask."""
    wins = 0
    kernel = np.ones((3, 3), np.uint8)
    paths = sorted((demo / "masks" / "val").rglob("*.png"))
    for path in paths:
        mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        picture = demo / "pictures" / "val" / path.parent.name / f"{path.stem}.jpg"
        pixels = np.asarray(cv2.imread(str(picture))).astype(np.float32)
        change = np.asarray(cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, kernel)).max(axis=2)
        border = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)) > 0
        shifted = np.roll(border, 9, axis=(0, 1))
        wins += bool(change[border].mean() > change[shifted].mean())
    assert wins >= 0.95 * len(paths)


def test_backgrounds_do_not_tell_the_kind(demo: Path) -> None:
    """Weighted 20-NN (temperature 0.07) on their colour histograms stays near chance, 12.5 %."""

    def histograms(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        read, behind, kinds = pictures(demo, split)
        counts = [
            cv2.calcHist([picture], [0, 1, 2], mask, [8] * 3, [0, 256] * 3)
            for picture, mask in zip(read, behind, strict=True)
        ]
        flat = np.sqrt(np.array([np.asarray(c).ravel() for c in counts], np.float32))
        return flat / np.linalg.norm(flat, axis=1, keepdims=True), kinds

    (bank, bank_kinds), (query, query_kinds) = histograms("train"), histograms("val")
    similarity = query @ bank.T
    nearest = np.argsort(-similarity, axis=1)[:, :20]
    votes = np.zeros((len(query), len(KINDS)))
    for row, near in enumerate(nearest):
        np.add.at(votes[row], bank_kinds[near], np.exp(similarity[row, near] / 0.07))
    # 80 queries: chance plus 3.4 standard deviations of a fair guess.
    assert (votes.argmax(axis=1) == query_kinds).mean() < 0.25


@pytest.mark.parametrize("kind", KINDS)
def test_objects_stay_inside(kind: str) -> None:
    """Nothing of an object is cut off by the border, whatever is drawn."""
    for number in range(40):
        mask = draw_picture(kind, np.random.default_rng([9, number]), 80).mask
        frame = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert frame.max() == 0, f"{kind} {number} touches the border"


def test_a_complete_set_is_kept(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "set", num_train=8, num_val=8, size=64)
    touched = tmp_path / "set" / "pictures" / "train" / "ring" / "ring-0001.jpg"
    touched.write_bytes(b"kept")
    make_demo_pictures(tmp_path / "set", num_train=8, num_val=8, size=64)
    assert touched.read_bytes() == b"kept"


def test_an_unfinished_set_is_made_again(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "whole", num_train=8, num_val=8, size=64)
    make_demo_pictures(tmp_path / "cut", num_train=8, num_val=8, size=64)
    (tmp_path / "cut" / "demo.json").rename(tmp_path / "cut" / "unfinished.json")
    (tmp_path / "cut" / "pictures" / "val" / "star" / "star-0001.jpg").unlink()
    make_demo_pictures(tmp_path / "cut", num_train=8, num_val=8, size=64)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_other_parameters_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "set", num_train=8, num_val=8, size=64)
    before = files(tmp_path / "set")
    with pytest.raises(InputError, match="other parameters"):
        make_demo_pictures(tmp_path / "set", num_train=16, num_val=8, size=64)
    assert files(tmp_path / "set") == before


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="not empty"):
        make_demo_pictures(tmp_path, num_train=8, num_val=8, size=64)
    assert list(files(tmp_path)) == ["pictures/holiday.jpg"]


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ({"num_train": 0}, "num_train"),
        ({"num_train": 12}, "num_train"),
        ({"num_val": -8}, "num_val"),
        ({"size": 32}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_unusable_numbers_are_refused(tmp_path: Path, counts: dict[str, int], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_demo_pictures(tmp_path / "set", **counts)
    assert not (tmp_path / "set").exists()
