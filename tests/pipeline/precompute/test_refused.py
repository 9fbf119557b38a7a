"""What the whole job refuses, and what stays as it was."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.precompute.config import PrecomputeConfig
from pipeline.shardset.manifest import load_dataset_info
from tests.picture_folders import contents, write_pictures
from tests.precompute_here import precompute_here


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data")
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"saliency": "centre"}, r"saliency\.source: boundary -> centre"),
        ({"shard_images": 7}, "shard_images: 6 -> 7"),
        ({"saliency_size": 28}, "saliency_size: 56 -> 28"),
        ({"labels": False}, "labels: True -> False"),
    ],
)
def test_other_parameters_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_pictures(tmp_path / "data", 3)
    config = PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=6)
    precompute_here(config)
    before = contents(Path(config.out))
    with pytest.raises(InputError, match=words):
        precompute_here(replace(config, **change))
    assert contents(Path(config.out)) == before


def test_sources_that_came_or_changed_are_named(config: PrecomputeConfig) -> None:
    precompute_here(config)
    before = contents(Path(config.out))
    victim = Path(config.data) / "class_1" / "picture 1.png"
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + b"x")
    precompute_here(config)  # all is whole: no source is read
    shutil.rmtree(Path(config.out) / "shards")
    with pytest.raises(InputError, match=r"class_1/picture 1\.png has changed"):
        precompute_here(config)
    victim.write_bytes(data)
    precompute_here(config)
    assert contents(Path(config.out)) == before
    (Path(config.data) / "class_0" / "new.png").write_bytes(data)
    with pytest.raises(InputError, match=r"class_0/new\.png is new"):
        precompute_here(config)


def test_too_many_bad_images_are_an_error(config: PrecomputeConfig) -> None:
    for number in range(3):
        (Path(config.data) / "class_0" / f"bad {number}.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"3 of 23 images cannot be used \(13\.0%\).*bad \d\.jpg"):
        precompute_here(config)
    assert not (Path(config.out) / "dataset.json").exists()
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        load_dataset_info(Path(config.out))
    info = precompute_here(replace(config, max_rejected_fraction=0.2))
    assert (info.num_images, info.num_rejected) == (20, 3)


def no_images(data: Path) -> None:
    data.mkdir()


def no_folder(data: Path) -> None:
    assert not data.exists()


def nothing_readable(data: Path) -> None:
    data.mkdir()
    for number in range(3):
        (data / f"{number}.jpg").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_images, "no image below"),
        (no_folder, "no such folder"),
        (nothing_readable, r"none of the 3 images .* can be used: \d\.jpg: not an image"),
    ],
)
def test_bad_input_writes_nothing(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "data")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words):
        precompute_here(
            PrecomputeConfig(
                data=tmp_path / "data", out=tmp_path / "out", max_rejected_fraction=1.0
            )
        )
    assert sorted(tmp_path.iterdir()) == before


def test_folders_that_cannot_be_the_output(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 1)
    (tmp_path / "file").write_text("x")
    for out, words in ((tmp_path / "data", "is the data folder"), (tmp_path / "file", "is a file")):
        with pytest.raises(InputError, match=words):
            precompute_here(PrecomputeConfig(data=tmp_path / "data", out=out))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["class_0"]
