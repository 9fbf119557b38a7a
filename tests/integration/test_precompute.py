"""The whole job on a real Ray: made, made again, refused, and read by other people's readers."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import ray.data
import webdataset

from pipeline.atomic import temporaries
from pipeline.codecs import decode_saliency, decode_stored
from pipeline.errors import InputError
from pipeline.manifest import check_shards, load_dataset_info
from pipeline.precompute import PrecomputeConfig, precompute
from pipeline.shards import ShardSetReader
from pipeline.verify import verify_set
from tests import deadly

pytestmark = pytest.mark.usefixtures("ray_session")


def write_pictures(data: Path, count: int = 20) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class_{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 90, (48, 64, 3), dtype=np.uint8)
        cv2.circle(pixels, (20 + number, 24), 10, (30, 60, 250), -1)
        suffix = ("jpg", "png", "webp", "tif")[number % 4]
        assert cv2.imwrite(str(folder / f"picture {number}.{suffix}"), pixels)


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data")
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=6)


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_a_folder_becomes_a_complete_set(
    config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.data / "class_0" / "notes.txt").write_text("no picture")
    info = precompute(config)
    assert load_dataset_info(config.out) == info
    check_shards(config.out, info)
    assert (info.num_images, info.num_rejected, len(info.shards)) == (20, 0, 4)
    assert info.class_names == ("class_0", "class_1", "class_2")
    assert info.saliency["source"] == "boundary"
    assert {"opencv", "pillow", "numpy"} <= info.versions.keys()
    assert not any(temporaries(folder) for folder in [config.out, *config.out.iterdir()])
    assert verify_set(config.out) == []
    reader = ShardSetReader(config.out, info)
    labels = reader.labels()
    assert np.bincount(labels).tolist() == [7, 7, 6]
    for number in range(20):
        sample = reader.read(number)
        assert decode_stored(sample.image).shape == (48, 64, 3)
        assert decode_saliency(sample.saliency).shape == (56, 56)
    printed = capsys.readouterr().out
    assert "20 images (3 classes), 1 other files ignored; 4 shards" in printed
    assert "20 rows in 4 shards" in printed
    assert "0 rejected, 1 other files ignored" in printed
    assert "4 shards made, 0 were whole and skipped; 20 images read" in printed


def test_only_what_is_broken_is_made_again_the_same(
    config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    info = precompute(config)
    before = contents(config.out)
    shards = sorted((config.out / "shards").iterdir())
    untouched = {path: path.stat().st_mtime_ns for path in (shards[0], shards[3])}
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    (config.out / "shards" / ".shard-000001.tar.0123.tmp").write_bytes(b"left by a killed run")
    (config.out / "dataset.json").unlink()
    capsys.readouterr()
    assert precompute(config) == info
    assert contents(config.out) == before
    assert untouched == {path: path.stat().st_mtime_ns for path in untouched}
    assert "2 shards made, 2 were whole and skipped" in capsys.readouterr().out


def test_another_place_gives_the_same_shards(config: PrecomputeConfig, tmp_path: Path) -> None:
    first = precompute(config)
    shutil.copytree(config.data, tmp_path / "elsewhere" / "copy")
    other = replace(config, data=tmp_path / "elsewhere" / "copy", out=tmp_path / "other")
    assert precompute(other) == first
    assert contents(other.out / "shards") == contents(config.out / "shards")


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
    precompute(config)
    before = contents(config.out)
    with pytest.raises(InputError, match=words):
        precompute(replace(config, **change))
    assert contents(config.out) == before


def test_sources_that_came_or_changed_are_named(config: PrecomputeConfig) -> None:
    precompute(config)
    before = contents(config.out)
    victim = config.data / "class_1" / "picture 1.png"
    data = victim.read_bytes()
    victim.write_bytes(data[:-1] + b"x")
    precompute(config)  # all is whole: no source is read
    shutil.rmtree(config.out / "shards")
    with pytest.raises(InputError, match=r"class_1/picture 1\.png has changed"):
        precompute(config)
    victim.write_bytes(data)
    precompute(config)
    assert contents(config.out) == before
    (config.data / "class_0" / "new.png").write_bytes(data)
    with pytest.raises(InputError, match=r"class_0/new\.png is new"):
        precompute(config)


def test_one_bad_image_costs_itself(
    config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.data / "class_0" / "bad.jpg").write_bytes(b"no picture")
    info = precompute(config)
    assert (info.num_images, info.num_rejected) == (20, 1)
    rejected = ray.data.read_parquet(str(config.out / "rejected")).take_all()
    assert rejected == [
        {
            "source": "class_0/bad.jpg",
            "reason": "not an image in a format that can be read",
        }
    ]
    printed = capsys.readouterr().out
    assert f"1 rejected (reasons in {config.out / 'rejected'})" in printed


def test_a_shard_without_any_good_image_is_read_too(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 3)
    (tmp_path / "data" / "class_0" / "bad.jpg").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "out", shard_images=1, max_rejected_fraction=0.5
    )
    info = precompute(config)
    assert sorted(shard.num_images for shard in info.shards) == [0, 1, 1, 1]
    assert len({ShardSetReader(config.out, info).read(number).key for number in range(3)}) == 3
    urls = [str(path) for path in sorted((config.out / "shards").iterdir())]
    assert len(list(webdataset.WebDataset(urls, shardshuffle=False))) == 3
    rows = ray.data.read_webdataset(urls, decoder=None).take_all()
    assert len(rows) == 3


def test_too_many_bad_images_are_an_error(config: PrecomputeConfig) -> None:
    for number in range(3):
        (config.data / "class_0" / f"bad {number}.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"3 of 23 images cannot be used \(13\.0%\).*bad \d\.jpg"):
        precompute(config)
    assert not (config.out / "dataset.json").exists()
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        load_dataset_info(config.out)
    info = precompute(replace(config, max_rejected_fraction=0.2))
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
        precompute(
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
            precompute(PrecomputeConfig(data=tmp_path / "data", out=out))
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["class_0"]


def test_pictures_beside_class_folders_have_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", 4)
    shutil.copy(tmp_path / "data" / "class_0" / "picture 0.jpg", tmp_path / "data" / "top.jpg")
    info = precompute(PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out"))
    assert not info.has_labels
    assert ShardSetReader(tmp_path / "out", info).labels().tolist() == [-1] * 5
    assert "no labels: top.jpg lies in no class folder" in capsys.readouterr().out


def test_stock_webdataset_reads_the_shards(config: PrecomputeConfig) -> None:
    info = precompute(config)
    urls = [str(config.out / "shards" / f"{shard.name}.tar") for shard in info.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 20
    reader = ShardSetReader(config.out, info)
    for number, sample in enumerate(samples):
        ours = reader.read(number)
        extension = next(name for name in ("jpg", "png", "webp") if name in sample)
        assert sample["__key__"] == ours.key
        assert sample["cls"] == ours.label == sample["json"]["label"]
        assert np.array_equal(sample["saliency.png"][..., 0], decode_saliency(ours.saliency))
        shape = (sample["json"]["height"], sample["json"]["width"], 3)
        assert sample[extension].shape == shape == decode_stored(ours.image).shape


def test_stock_ray_reads_the_shards(config: PrecomputeConfig) -> None:
    info = precompute(config)
    keys = {ShardSetReader(config.out, info).read(number).key for number in range(20)}
    # Ray's own decoder wants one image suffix in all samples: these are mixed, so bytes
    rows = ray.data.read_webdataset(str(config.out / "shards"), decoder=None).take_all()
    assert {row["__key__"] for row in rows} == keys
    labels = [json.loads(row["json"])["label"] for row in rows]
    assert labels == [int(row["cls"]) for row in rows]


def test_photographs(shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in sorted((shared_data / "imagenette160" / "train").iterdir())[:3]:
        (data / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:5]:
            shutil.copy(path, data / folder.name / path.name)
    out = tmp_path / "out"
    info = precompute(PrecomputeConfig(data=data, out=out, saliency="spectral_residual"))
    assert (info.num_images, info.num_rejected, len(info.class_names)) == (15, 0, 3)
    reader = ShardSetReader(out, info)
    for number in range(15):
        sample = reader.read(number)
        stem, _ = sample.key.rsplit("-", 1)
        (original,) = data.glob(f"*/{stem}.*")
        assert sample.image == original.read_bytes()
        assert info.class_names[sample.label] == original.parent.name
    rows = ray.data.read_webdataset(str(out / "shards")).take_all()
    for row in rows:
        assert row["jpg"].shape == (row["json"]["height"], row["json"]["width"], 3)
        assert row["saliency.png"].shape == (56, 56)
        assert (data / row["json"]["source"]).parent.name == info.class_names[row["cls"]]
    assert len(rows) == 15


def test_a_deadly_image_costs_itself_on_ray_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly.write_pictures(tmp_path / "data", 12, poisoned=[5])
    monkeypatch.setattr(
        "pipeline.precompute.make_saliency_source",
        lambda name: deadly.DeadlySaliency(death="crash"),
    )
    config = PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "out", shard_images=4, max_rejected_fraction=0.1
    )
    info = precompute(config)
    assert (info.num_images, info.num_rejected) == (11, 1)
    rejected = ray.data.read_parquet(str(config.out / "rejected")).take_all()
    assert rejected == [{"source": "005.png", "reason": "kills the decoder (signal 11)"}]
    assert verify_set(config.out) == []


def test_a_source_that_kills_its_process_is_one_clear_error(
    config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "pipeline.precompute.make_saliency_source", lambda name: deadly.DiesAlways()
    )
    with pytest.raises(
        InputError, match=r"shard-\d+ cannot be made: the saliency source's process"
    ):
        precompute(config)
    assert not (config.out / "dataset.json").exists()
