from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.schema import shard_file
from tests.training.evaluate.cases import NAMES, pictures, write_folders
from training.evaluate.labelled import check_classes, labelled_pair, open_labelled, open_pair

MakeShards = Callable[..., DatasetInfo]


@pytest.fixture
def roots(tmp_path: Path, make_labelled_shards: MakeShards) -> tuple[Path, Path]:
    make_labelled_shards(tmp_path / "train", *pictures(12, seed=0), NAMES)
    make_labelled_shards(tmp_path / "val", *pictures(9, seed=1), NAMES)
    return tmp_path / "train", tmp_path / "val"


def refused(train: Path, val: Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        labelled_pair(train, val)


def test_folders_and_shards_hold_the_same(roots: tuple[Path, Path], tmp_path: Path) -> None:
    folders = open_labelled(write_folders(tmp_path / "folders", 12, seed=0))
    shards = open_labelled(roots[0])
    assert folders.class_names == shards.class_names == NAMES
    assert folders.num_images == shards.num_images == 12
    assert folders.saliency_source is None
    assert shards.saliency_source == "made"
    assert shards.saliency(0).shape == (56, 56)
    # A folder is in the order of its names: class by class.
    order = np.argsort(shards.labels(), kind="stable")
    assert np.array_equal(folders.labels(), shards.labels()[order])
    for number, row in enumerate(order):
        assert np.array_equal(folders.image(number), shards.image(int(row)))


def test_the_digest_of_a_folder_is_of_names_and_sizes(tmp_path: Path) -> None:
    first = open_labelled(write_folders(tmp_path / "a", 6, seed=0))
    same = open_labelled(write_folders(tmp_path / "b", 6, seed=0))
    other = open_labelled(write_folders(tmp_path / "c", 6, seed=1))
    assert first.digest == same.digest != other.digest
    refused(tmp_path / "a", tmp_path / "b", "share 6 images")


def test_a_pair_of_both_kinds(roots: tuple[Path, Path], tmp_path: Path) -> None:
    write_folders(tmp_path / "folders", 9, seed=2)
    train, val = labelled_pair(roots[0], tmp_path / "folders")
    assert (train.num_images, val.num_images) == (12, 9)


def test_labels_are_needed(
    roots: tuple[Path, Path], tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    make_labelled_shards(tmp_path / "plain", *pictures(4, seed=2))
    refused(roots[0], tmp_path / "plain", "labels asked for where there are none: .*plain")
    refused(tmp_path / "plain", roots[1], "labels asked for where there are none: .*plain")
    (write_folders(tmp_path / "loose", 3, seed=0) / "red" / "0002.png").rename(
        tmp_path / "loose" / "0002.png"
    )
    refused(roots[0], tmp_path / "loose", r"none: 0002.png in .*loose lies in no class folder")


def test_classes_must_agree(
    roots: tuple[Path, Path], tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    images, labels = pictures(6, seed=2)
    make_labelled_shards(tmp_path / "other", images, labels, ("blue", "grey", "red"))
    make_labelled_shards(tmp_path / "more", images, labels, (*NAMES, "white"))
    refused(roots[0], tmp_path / "other", "'green' and 'grey'")
    refused(roots[0], tmp_path / "more", "3 and 4 classes")
    write_folders(tmp_path / "folders", 6, 0, ("blue", "green", "violet"))
    refused(roots[0], tmp_path / "folders", "'red' and 'violet'")


def test_classes_with_too_few_images(tmp_path: Path, make_labelled_shards: MakeShards) -> None:
    images, labels = pictures(7, seed=0)
    make_labelled_shards(tmp_path / "whole", images, labels, NAMES)
    others, _ = pictures(5, seed=1)
    make_labelled_shards(tmp_path / "one", others, labels[:5], NAMES)
    make_labelled_shards(tmp_path / "none", others[:2], labels[:2], NAMES)
    check_classes(*labelled_pair(tmp_path / "whole", tmp_path / "one"))
    with pytest.raises(InputError, match=r"'red' has 1 training images in .*one: .*at least 2"):
        check_classes(*labelled_pair(tmp_path / "one", tmp_path / "whole"))
    with pytest.raises(InputError, match=r"'red' has 0 validation images in .*none"):
        check_classes(*labelled_pair(tmp_path / "whole", tmp_path / "none"))


def test_shared_images_are_counted_and_named(
    roots: tuple[Path, Path], tmp_path: Path, make_labelled_shards: MakeShards
) -> None:
    refused(roots[0], roots[0], "share 12 images .picture-000000.png, .*-000002.png, ...\\)")
    images, labels = pictures(12, seed=0)
    others, _ = pictures(9, seed=2)
    make_labelled_shards(tmp_path / "some", [*others, images[7]], [*labels[:9], 1], NAMES)
    refused(roots[0], tmp_path / "some", r"some and .*train share 1 image \(picture-000009\.png\)")
    folders = write_folders(tmp_path / "folders", 9, seed=2)
    labelled_pair(roots[0], folders)
    refused(tmp_path / "some", folders, r"share 9 images \(blue/0000\.png, .*3.png, .*6.png, \.")
    (folders / "red" / "0002.png").write_bytes((folders / "blue" / "0003.png").read_bytes())
    refused(tmp_path / "some", folders, "share 9 images")
    open_pair(roots[0], roots[0])


def test_missing_and_damaged_sets(roots: tuple[Path, Path], tmp_path: Path) -> None:
    refused(roots[0], tmp_path / "nowhere", "nowhere")
    (tmp_path / "empty").mkdir()
    refused(roots[0], tmp_path / "empty", "no images below .*empty: wanted shards")
    (roots[1] / shard_file("shard-000000")).unlink()
    refused(*roots, "shard-000000.*missing")


def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    root = write_folders(tmp_path / "folders", 3, seed=0)
    (root / "green" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    images = open_labelled(root)
    with pytest.raises(InputError, match=r"green/0001.png: .*move it away"):
        images.image(1)
