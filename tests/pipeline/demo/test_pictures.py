"""The demo pictures: reproducible, balanced, masked rightly, with backgrounds typical of kinds."""

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.core.errors import InputError
from pipeline.demo.pictures import (
    KINDS,
    SPLITS,
    draw_colours,
    draw_picture,
    make_demo_pictures,
    picture_rng,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "set"
    make_demo_pictures(out, num_train=320, num_usual=160, num_changed=160, seed=3)
    return out


def few(num: int = 8) -> dict[str, Any]:
    return {"num_train": num, "num_usual": 8, "num_changed": 8}


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
    for split, count in (("train", 320), ("usual", 160), ("changed", 160)):
        for number, kind in enumerate(KINDS):
            names = [f"{n:04d}" for n in range(number, count, len(KINDS))]
            drawn = sorted((demo / "pictures" / split / kind).iterdir())
            masks = sorted((demo / "masks" / split / kind).iterdir())
            assert [p.name for p in drawn] == [f"{n}.jpg" for n in names]
            assert [p.name for p in masks] == [f"{n}.png" for n in names]
    assert len(KINDS) == 8
    assert sorted(p.name for p in (demo / "pictures" / "train").iterdir()) == sorted(KINDS)
    told = json.loads((demo / "demo.json").read_text())
    counts = [told[f"num_{split}"] for split in SPLITS]
    assert (counts, told["seed"]) == ([320, 160, 160], 3)
    assert not (demo / "unfinished.json").exists()


def test_same_parameters_same_bytes_and_other_seed_other_pictures(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("other", 6)):
        make_demo_pictures(tmp_path / name, **few(16), seed=seed, size=96)
    one, two, other = (files(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_no_two_pictures_are_equal(demo: Path) -> None:
    digests = list(files(demo / "pictures").values())
    assert len(digests) == 640
    assert len(set(digests)) == 640


def test_a_larger_set_starts_with_the_smaller(demo: Path, tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "small", **few(), seed=3)
    small, large = files(tmp_path / "small" / "pictures"), files(demo / "pictures")
    assert small.items() <= large.items()


def test_masks_are_binary_of_the_pictures_size_and_cover_a_fair_share(demo: Path) -> None:
    shares, middles = [], []
    for path in sorted((demo / "masks" / "train").rglob("*.png")):
        mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        picture = demo / "pictures" / "train" / path.parent.name / f"{path.stem}.jpg"
        pixels = np.asarray(cv2.imread(str(picture)))
        assert mask.shape == pixels.shape[:2]
        assert min(mask.shape) >= 58
        assert max(mask.shape) <= 70
        assert set(np.unique(mask).tolist()) == {0, 255}
        shares.append(float((mask > 0).mean()))
        rows, columns = np.nonzero(mask)
        middles.append((rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]))
    # A long object that does not fit is drawn smaller; the border takes an eighth of a pixel more.
    assert min(shares) >= 0.07
    assert max(shares) <= 0.28
    assert np.ptp(shares) > 0.12
    # Not only in the centre: what a centre prior cannot know.
    assert np.std(middles, axis=0).min() > 0.07
    np.testing.assert_allclose(np.mean(middles, axis=0), 0.5, atol=0.04)


def test_the_mask_lies_on_the_object(demo: Path) -> None:
    """Across a mask's border colours change more than across the border of a shifted mask."""
    wins = 0
    kernel = np.ones((3, 3), np.uint8)
    paths = sorted((demo / "masks" / "usual").rglob("*.png"))
    for path in paths:
        mask = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
        picture = demo / "pictures" / "usual" / path.parent.name / f"{path.stem}.jpg"
        pixels = np.asarray(cv2.imread(str(picture))).astype(np.float32)
        change = np.asarray(cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, kernel)).max(axis=2)
        border = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)) > 0
        shifted = np.roll(border, 5, axis=(0, 1))
        wins += bool(change[border].mean() > change[shifted].mean())
    assert wins >= 0.95 * len(paths)


def test_backgrounds_tell_the_kind_where_they_are_usual(demo: Path) -> None:
    """20-NN on their colour histograms: useful on usual ones, chance (12.5 %) on changed ones."""

    def histograms(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        read, behind, kinds = pictures(demo, split)
        counts = [
            cv2.calcHist([picture], [0, 1, 2], mask, [8] * 3, [0, 256] * 3)
            for picture, mask in zip(read, behind, strict=True)
        ]
        flat = np.sqrt(np.array([np.asarray(c).ravel() for c in counts], np.float32))
        return flat / np.linalg.norm(flat, axis=1, keepdims=True), kinds

    bank, bank_kinds = histograms("train")
    right = {}
    for split in ("usual", "changed"):
        query, query_kinds = histograms(split)
        nearest = np.argsort(-(query @ bank.T), axis=1)[:, :20]
        votes = np.array([np.bincount(bank_kinds[near], minlength=len(KINDS)) for near in nearest])
        right[split] = float((votes.argmax(axis=1) == query_kinds).mean())
    # 160 queries: a guess is right in 12.5 +- 2.6 %; both bounds are 4 standard deviations off it.
    assert right["usual"] > 0.23
    assert right["changed"] < 0.23


@pytest.mark.parametrize(("split", "expected"), [("train", 0.9125), ("changed", 0.125)])
def test_typical_backgrounds(split: str, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often an object stands on its kind's background: 0.9 + 0.1 / 8, or one time in eight."""
    stands = []

    def seen(kind: int, place: int, rng: np.random.Generator) -> tuple[object, object]:
        stands.append(kind == place)
        return draw_colours(kind, place, rng)

    monkeypatch.setattr("pipeline.demo.pictures.draw_colours", seen)
    for number in range(800):
        draw_picture(KINDS[number % 8], picture_rng(1, split, number), 48, split=split)
    # 4 standard deviations of 800 draws.
    assert abs(np.mean(stands) - expected) < 4 * np.sqrt(expected * (1 - expected) / 800)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_stay_inside(kind: str) -> None:
    """Nothing of an object is cut off by the border, whatever is drawn."""
    for number in range(40):
        mask = draw_picture(kind, picture_rng(9, "train", number), 80).mask
        frame = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert frame.max() == 0, f"{kind} {number} touches the border"


def test_a_complete_set_is_kept(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "set", **few(), size=64)
    touched = tmp_path / "set" / "pictures" / "train" / "ring" / "0006.jpg"
    touched.write_bytes(b"kept")
    make_demo_pictures(tmp_path / "set", **few(), size=64)
    assert touched.read_bytes() == b"kept"


def test_an_unfinished_set_is_made_again(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "whole", **few(), size=64)
    make_demo_pictures(tmp_path / "cut", **few(), size=64)
    (tmp_path / "cut" / "demo.json").rename(tmp_path / "cut" / "unfinished.json")
    (tmp_path / "cut" / "pictures" / "usual" / "star" / "0007.jpg").unlink()
    make_demo_pictures(tmp_path / "cut", **few(), size=64)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_other_parameters_are_refused_and_nothing_changes(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path / "set", **few(), size=64)
    before = files(tmp_path / "set")
    with pytest.raises(InputError, match="other parameters"):
        make_demo_pictures(tmp_path / "set", **few(16), size=64)
    assert files(tmp_path / "set") == before


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="not empty"):
        make_demo_pictures(tmp_path, **few(), size=64)
    assert list(files(tmp_path)) == ["pictures/holiday.jpg"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_train": 0}, "num_train"),
        ({"num_train": 12}, "num_train"),
        ({"num_usual": -8}, "num_usual"),
        ({"num_changed": 4}, "num_changed"),
        ({"size": 32}, "size"),
        ({"object_share": (0.2, 0.1)}, "object_share"),
        ({"object_share": (0.1, 0.6)}, "object_share"),
        ({"seed": -1}, "seed"),
    ],
)
def test_unusable_numbers_are_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_demo_pictures(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()


def test_small_objects(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path, **few(64), object_share=(0.03, 0.1))
    masks = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE) for p in tmp_path.rglob("*.png")]
    shares = [float((np.asarray(mask) > 0).mean()) for mask in masks]
    # Drawn with a border of an eighth of a pixel more, a tenth of the smallest ones' area.
    assert min(shares) >= 0.025
    assert max(shares) <= 0.115
