from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.schema import shard_file
from tests.training.evaluate.cases import NAMES, pictures, write_folders
from training.evaluate.labelled import (
    NUM_SHARDS,
    check_classes,
    hashed_subset,
    labelled_pair,
    open_labelled,
)

MakeShards = Callable[..., DatasetInfo]


@pytest.fixture
def train(tmp_path: Path, make_labelled_shards: MakeShards) -> Path:
    make_labelled_shards(tmp_path / "train", *pictures(12, seed=0), NAMES)
    return tmp_path / "train"


def refused(train: Path, val: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_classes(*labelled_pair(train, val))


def test_folders_and_shards_hold_the_same(train: Path, tmp_path: Path) -> None:
    folders = open_labelled(write_folders(tmp_path / "folders", 12, seed=0))
    shards = open_labelled(train)
    assert folders.class_names == shards.class_names == NAMES
    assert folders.num_images == shards.num_images == 12
    assert (folders.saliency_source, shards.saliency_source) == (None, "made")
    assert shards.saliency(0).shape == (56, 56)
    # A folder is in the order of its names: class by class.
    order = np.argsort(shards.labels(), kind="stable")
    assert np.array_equal(folders.labels(), shards.labels()[order])
    names, sha256 = folders.sources
    assert names.tolist()[:5:4] == ["blue/0000.png", "green/0001.png"]
    assert sha256.tolist() == shards.sources[1][order].tolist()
    for number, row in enumerate(order):
        assert np.array_equal(folders.image(number), shards.image(int(row)))
    # The digest is of names and sizes.
    same, other = (open_labelled(write_folders(tmp_path / f"s{s}", 12, seed=s)) for s in (0, 1))
    assert folders.digest == same.digest != other.digest


def test_labels_are_needed_and_mean_the_same(
    train: Path, tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    make_labelled_shards(tmp_path / "plain", *pictures(4, seed=2))
    refused(train, tmp_path / "plain", "plain has no labels: run")
    refused(tmp_path / "plain", train, "plain has no labels: run")
    assert open_labelled(tmp_path / "plain", labels=False).num_images == 4
    loose = write_folders(tmp_path / "loose", 3, seed=0)
    (loose / "red" / "0002.png").rename(loose / "0002.png")
    refused(train, loose, r"loose has no labels: 0002.png lies in no class folder")
    images = open_labelled(loose, labels=False)
    assert (images.num_images, images.class_names, set(images.labels())) == (3, (), {-1})
    make_labelled_shards(tmp_path / "more", *pictures(6, seed=2), (*NAMES, "white"))
    refused(train, tmp_path / "more", r"\('white' is a class of \S*more only\)")
    violet = write_folders(tmp_path / "folders", 6, 0, ("blue", "green", "violet"))
    refused(train, violet, r"\('red' is a class of \S* only\)")


def test_classes_with_too_few_images(tmp_path: Path, make_labelled_shards: MakeShards) -> None:
    for name, num, seed in (("whole", 7, 0), ("one", 5, 1), ("none", 2, 1)):
        make_labelled_shards(tmp_path / name, *pictures(num, seed=seed), NAMES)
    check_classes(*labelled_pair(tmp_path / "whole", tmp_path / "one"))
    refused(
        tmp_path / "one",
        tmp_path / "whole",
        r"'red' has 1 training images in .*one: .*at least 2",
    )
    refused(tmp_path / "whole", tmp_path / "none", "'red' has 0 validation images in .*none")


def test_shared_images_are_counted_and_named(
    train: Path, tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    refused(train, train, "share 12 images .picture-000000.png, .*-000002.png, ...\\)")
    images, others = pictures(12, seed=0)[0], pictures(9, seed=2)
    make_labelled_shards(tmp_path / "some", [*others[0], images[7]], [*others[1], 1], NAMES)
    refused(train, tmp_path / "some", r"some and .*train share 1 image \(picture-000009\.png\)")
    folders = write_folders(tmp_path / "folders", 9, seed=2)
    check_classes(*labelled_pair(train, folders))
    refused(tmp_path / "some", folders, r"share 9 images \(blue/0000\.png, .*3.png, .*6.png, \.")


def test_missing_and_damaged_sets(train: Path, tmp_path: Path) -> None:
    refused(train, tmp_path / "nowhere", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(train, tmp_path / "empty", "no images below .*empty: wanted shards")
    root = write_folders(tmp_path / "folders", 3, seed=0)
    (train / shard_file("shard-000000")).unlink()
    refused(root, train, "shard-000000.*missing")
    (root / "green" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(InputError, match=r"green/0001.png: .*move it away"):
        open_labelled(root).image(1)


def test_a_folder_of_deep_images_has_no_range(tmp_path: Path) -> None:
    folders = write_folders(tmp_path, 12, seed=0)
    assert cv2.imwrite(str(folders / "blue" / "deep.png"), np.full((32, 32), 999, np.uint16))
    number = sorted(p.relative_to(folders) for p in folders.rglob("*.png")).index(
        Path("blue/deep.png")
    )
    with pytest.raises(InputError, match=r"deep.png is not 8-bit .* --range like SHARDS"):
        open_labelled(folders).image(number)


def test_a_subset_is_of_few_shards_and_always_the_same() -> None:
    sizes = [5, 0, 7] * 20
    numbers = hashed_subset(sizes, 40)
    assert len(np.unique(numbers)) == len(numbers) == 40
    shards = np.searchsorted(np.cumsum(sizes), numbers, side="right")
    assert len(np.unique(shards)) <= NUM_SHARDS
    assert set(hashed_subset(sizes, 20)) < set(numbers)
    assert list(hashed_subset([3, 4], 100)) == list(range(7))
