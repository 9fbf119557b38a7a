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
    """All pictures of a split, BGR, their masks, and each one's kind."""
    paths = sorted((demo / "pictures" / split).rglob("*.jpg"))
    masks = [demo / "masks" / split / p.parent.name / f"{p.stem}.png" for p in paths]
    read = [np.asarray(cv2.imread(str(p)), np.uint8) for p in paths]
    drawn = [np.asarray(cv2.imread(str(m), cv2.IMREAD_UNCHANGED), np.uint8) for m in masks]
    return read, drawn, np.array([KINDS.index(p.parent.name) for p in paths])


def test_layout_balance_and_variety(demo: Path) -> None:
    """No two pictures are equal."""
    for split, count in (("train", 320), ("usual", 160), ("changed", 160)):
        for number, kind in enumerate(KINDS):
            names = [f"{n:04d}" for n in range(number, count, len(KINDS))]
            for folder, suffix in (("pictures", "jpg"), ("masks", "png")):
                found = sorted(p.name for p in (demo / folder / split / kind).iterdir())
                assert found == [f"{name}.{suffix}" for name in names]
    told = json.loads((demo / "demo.json").read_text())
    assert [told[f"num_{split}"] for split in SPLITS] == [320, 160, 160]
    assert told["seed"] == 3
    assert not (demo / "unfinished.json").exists()
    assert len(set(files(demo / "pictures").values())) == 640


def test_bytes_follow_from_seed_split_and_number(demo: Path, tmp_path: Path) -> None:
    """Also by two processes, and after a stop half-way."""
    make_demo_pictures(tmp_path / "small", **few(), seed=3, num_processes=2)
    small = files(tmp_path / "small" / "pictures")
    assert small.items() <= files(demo / "pictures").items()
    make_demo_pictures(tmp_path / "other", **few(), seed=6)
    other = files(tmp_path / "other" / "pictures")
    assert small.keys() == other.keys()
    assert not set(small.values()) & set(other.values())
    (tmp_path / "small" / "demo.json").rename(tmp_path / "small" / "unfinished.json")
    (tmp_path / "small" / "pictures" / "usual" / "star" / "0007.jpg").unlink()
    make_demo_pictures(tmp_path / "small", **few(), seed=3)
    assert files(tmp_path / "small" / "pictures") == small


def test_masks_are_binary_of_the_pictures_size_and_cover_a_fair_share(demo: Path) -> None:
    shares, middles = [], []
    for pixels, mask in zip(*pictures(demo, "train")[:2], strict=True):
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
    wins = []
    kernel = np.ones((3, 3), np.uint8)
    for picture, mask in zip(*pictures(demo, "usual")[:2], strict=True):
        pixels = picture.astype(np.float32)
        change = np.asarray(cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, kernel)).max(axis=2)
        border = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)) > 0
        shifted = np.roll(border, 5, axis=(0, 1))
        wins.append(change[border].mean() > change[shifted].mean())
    assert np.mean(wins) >= 0.95


def test_backgrounds_tell_the_kind_where_they_are_usual(demo: Path) -> None:
    """20-NN on their colour histograms: useful on usual ones, chance (12.5 %) on changed ones."""

    def histograms(split: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        read, masks, kinds = pictures(demo, split)
        counts = [
            cv2.calcHist([picture], [0, 1, 2], 255 - mask, [8] * 3, [0, 256] * 3)
            for picture, mask in zip(read, masks, strict=True)
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
def test_typical_backgrounds_and_whole_objects(
    split: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object stands on its kind's background in 0.9 + 0.1 / 8, or one time in eight."""
    stands = []

    def seen(kind: int, place: int, rng: np.random.Generator) -> tuple[object, object]:
        stands.append(kind == place)
        return draw_colours(kind, place, rng)

    monkeypatch.setattr("pipeline.demo.pictures.draw_colours", seen)
    for number in range(800):
        kind = KINDS[number % 8]
        mask = draw_picture(kind, picture_rng(1, split, number), 48, split=split).mask
        frame = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
        assert frame.max() == 0, f"{kind} {number} touches the border"
    # 4 standard deviations of 800 draws.
    assert abs(np.mean(stands) - expected) < 4 * np.sqrt(expected * (1 - expected) / 800)


def test_a_complete_set_is_kept_and_other_parameters_are_refused(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path, **few())
    touched = tmp_path / "pictures" / "train" / "ring" / "0006.jpg"
    touched.write_bytes(b"kept")
    before = files(tmp_path)
    make_demo_pictures(tmp_path, **few())
    with pytest.raises(InputError, match=r"other parameters \(num_train 8\)"):
        make_demo_pictures(tmp_path, **few(16))
    assert files(tmp_path) == before


def test_objects_are_as_small_as_asked(tmp_path: Path) -> None:
    make_demo_pictures(tmp_path, **few(), object_share=(0.03, 0.1))
    files_of_masks = (tmp_path / "masks").rglob("*.png")
    masks = (np.asarray(cv2.imread(str(file), 0), np.uint8) for file in files_of_masks)
    shares = [float((mask > 0).mean()) for mask in masks]
    # The outlines are rounded to pixels, and drawn with their border: up to 0.0105 more was seen.
    assert 0.03 < min(shares) < 0.05
    assert 0.06 < max(shares) < 0.12
    with pytest.raises(InputError, match=r"object_share \[0.03, 0.1\]"):
        make_demo_pictures(tmp_path, **few())


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="not empty"):
        make_demo_pictures(tmp_path, **few())
    assert list(files(tmp_path)) == ["pictures/holiday.jpg"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_train": 0}, "num_train"),
        ({"num_train": 12}, "num_train"),
        ({"num_usual": -8}, "num_usual"),
        ({"num_changed": 4}, "num_changed"),
        ({"seed": -1}, "seed"),
        ({"object_share": (0.0, 0.2)}, "object_share"),
        ({"object_share": (0.3, 0.2)}, "object_share"),
        ({"object_share": (0.3, 1.0)}, "object_share"),
    ],
)
def test_unusable_numbers_are_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        make_demo_pictures(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()
