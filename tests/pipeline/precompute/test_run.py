"""The whole job without Ray: any number of processes makes the same bytes; what it refuses."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import build_here, run_precompute
from pipeline.shardset.manifest import load_dataset_info
from tests.listeners import Kept
from tests.picture_folders import contents, write_pictures


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data", 10)
    return PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "out", shard_images=6, saliency="centre"
    )


def test_one_and_two_processes_make_the_same_set(config: PrecomputeConfig, tmp_path: Path) -> None:
    config = replace(config, out=tmp_path / "1", shard_images=4)
    first = run_precompute(config)
    assert [shard.num_images for shard in first.shards] == [4, 4, 2]
    two = partial(build_here, num_processes=2)
    assert run_precompute(replace(config, out=tmp_path / "2"), two) == first
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    (tmp_path / "1" / "shards" / "shard-000001.tar").unlink()
    kept = Kept()
    with listening(kept):
        run_precompute(config)
    # what was whole is no part of the speed
    assert [(s.done, s.given) for s in kept.standings] == [(0, 0), (4, 4), (8, 4), (10, 6)]


def test_other_parameters_or_sources_are_refused_by_name(config: PrecomputeConfig) -> None:
    run_precompute(config)
    before = contents(Path(config.out))
    with pytest.raises(InputError, match=r"saliency\.source: centre -> uniform"):
        run_precompute(replace(config, saliency="uniform"))
    with pytest.raises(InputError, match="labels: True -> False"):
        run_precompute(replace(config, labels=False))
    victim = Path(config.data) / "class_1" / "picture 1.png"
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + b"x")
    with pytest.raises(InputError, match=r"class_1/picture 1\.png has other bytes"):
        run_precompute(config)
    shutil.rmtree(Path(config.out) / "shards")
    with pytest.raises(InputError, match=r"class_1/picture 1\.png has other bytes"):
        run_precompute(config)
    victim.write_bytes(data)
    run_precompute(config)
    assert contents(Path(config.out)) == before


def test_too_many_bad_images_are_an_error(config: PrecomputeConfig) -> None:
    for number in range(4):
        (Path(config.data) / "class_0" / f"bad {number}.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"4 of 14 images cannot be used \(28\.6%\)") as refused:
        run_precompute(config)
    assert len(re.findall(r"bad \d\.jpg: not an image", str(refused.value))) == 3
    assert f"parquet files in {config.out}/rejected)" in str(refused.value)
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        load_dataset_info(Path(config.out))
    info = run_precompute(replace(config, max_rejected_fraction=0.3))
    assert (info.num_images, info.num_rejected) == (10, 4)


def nothing_readable(data: Path) -> None:
    data.mkdir()
    for number in range(3):
        (data / f"{number}.jpg").write_bytes(b"no picture")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "no image below"),
        (lambda data: None, "no such folder"),
        (nothing_readable, r"none of the 3 images .* can be used: \d\.jpg: not an image"),
    ],
)
def test_bad_input_writes_nothing(
    tmp_path: Path, make: Callable[[Path], object], words: str
) -> None:
    make(tmp_path / "data")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=words):
        run_precompute(
            PrecomputeConfig(
                data=tmp_path / "data", out=tmp_path / "out", max_rejected_fraction=1.0
            )
        )
    assert sorted(tmp_path.iterdir()) == before


def test_folders_that_cannot_be_the_output(config: PrecomputeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    before = contents(tmp_path)
    for out, words in (
        (tmp_path / "data", "is the data folder"),
        (tmp_path / "data" / "shards", "/shards lies inside of the data, .*/data: choose"),
        (tmp_path / "file", "is a file"),
    ):
        with pytest.raises(InputError, match=words):
            run_precompute(replace(config, out=out))
    everything, one_level = tmp_path / "data" / "**" / "*.png", tmp_path / "data" / "*.png"
    for data, out, words in (
        (everything, tmp_path / "data", "is the data folder"),
        (everything, tmp_path / "data" / "shards", "/shards lies inside of the data"),
        (one_level, tmp_path / "data" / "shards", f"no image below {tmp_path}/data .*match"),
    ):
        with pytest.raises(InputError, match=words):
            run_precompute(replace(config, data=data, out=out))
    masks = tmp_path / "data" / "masks"
    external = replace(config, saliency="external", masks=masks)
    with pytest.raises(InputError, match=r"the masks lie inside of the data, .*/data/masks/"):
        run_precompute(external)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shard_images": 0}, "shard_images must be at least 1, got 0"),
        ({"resize_short": 0}, "resize_short must be at least 1, got 0"),
        ({"saliency_size": 7}, r"saliency_size must be in 8\.\.1024, got 7"),
        ({"max_rejected_fraction": 1.5}, r"max_rejected_fraction must be in 0\.\.1"),
        ({"saliency": "external:missing=uniform"}, "takes masks as they are"),
        ({"saliency": "external"}, "where the masks are: --masks FOLDER or --mask-column"),
        ({"saliency": "external", "masks": "M", "mask_column": "m"}, "not both"),
        ({"masks": "M"}, "--masks is for --saliency external, not boundary"),
        ({"mask_column": "m"}, "--mask-column is for --saliency external"),
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        PrecomputeConfig(data="data", out="out", **change)
