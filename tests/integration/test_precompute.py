"""The whole job on a real Ray: made, and made again."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray.data

from pipeline.core.errors import InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from pipeline.precompute.verify import verify_set
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.storage.atomic import temporaries
from tests import deadly
from tests.picture_folders import contents, write_pictures

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data")
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=6)


def test_a_folder_becomes_a_complete_set(
    config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(config.data) / "class_0" / "notes.txt").write_text("no picture")
    info = precompute(config)
    assert load_dataset_info(Path(config.out)) == info
    check_shards(Path(config.out), info)
    assert (info.num_images, info.num_rejected, len(info.shards)) == (20, 0, 4)
    assert info.class_names == ("class_0", "class_1", "class_2")
    assert info.saliency["source"] == "boundary"
    assert {"opencv", "pillow", "numpy"} <= info.versions.keys()
    assert not any(
        temporaries(folder) for folder in [Path(config.out), *Path(config.out).iterdir()]
    )
    reader = ShardSetReader(Path(config.out), info)
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
    before = contents(Path(config.out))
    shards = sorted((Path(config.out) / "shards").iterdir())
    untouched = {path: path.stat().st_mtime_ns for path in (shards[0], shards[3])}
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    (Path(config.out) / "shards" / ".shard-000001.tar.0123.tmp").write_bytes(
        b"left by a killed run"
    )
    (Path(config.out) / "dataset.json").unlink()
    capsys.readouterr()
    assert precompute(config) == info
    assert contents(Path(config.out)) == before
    assert untouched == {path: path.stat().st_mtime_ns for path in untouched}
    assert "2 shards made, 2 were whole and skipped" in capsys.readouterr().out


def test_another_place_gives_the_same_shards(config: PrecomputeConfig, tmp_path: Path) -> None:
    first = precompute(config)
    shutil.copytree(Path(config.data), tmp_path / "elsewhere" / "copy")
    other = replace(config, data=tmp_path / "elsewhere" / "copy", out=tmp_path / "other")
    assert precompute(other) == first
    assert contents(Path(other.out) / "shards") == contents(Path(config.out) / "shards")


def test_one_bad_image_costs_itself(
    config: PrecomputeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    (Path(config.data) / "class_0" / "bad.jpg").write_bytes(b"no picture")
    info = precompute(config)
    assert (info.num_images, info.num_rejected) == (20, 1)
    rejected = ray.data.read_parquet(str(Path(config.out) / "rejected")).take_all()
    assert rejected == [
        {
            "source": "class_0/bad.jpg",
            "reason": "not an image in a format that can be read",
        }
    ]
    printed = capsys.readouterr().out
    assert f"1 rejected (reasons in {Path(config.out) / 'rejected'})" in printed


def test_pictures_beside_class_folders_have_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", 4)
    shutil.copy(tmp_path / "data" / "class_0" / "picture 0.jpg", tmp_path / "data" / "top.jpg")
    info = precompute(PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out"))
    assert not info.has_labels
    assert ShardSetReader(tmp_path / "out", info).labels().tolist() == [-1] * 5
    assert "no labels: top.jpg lies in no class folder" in capsys.readouterr().out


def test_a_deadly_image_costs_itself_on_ray_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly.write_pictures(tmp_path / "data", 12, {5: "crash"})
    source = deadly.DeadlySaliency()
    monkeypatch.setattr(PrecomputeConfig, "make_saliency", lambda self: source)
    out = tmp_path / "out"
    config = PrecomputeConfig(
        data=tmp_path / "data", out=out, shard_images=4, max_rejected_fraction=0.1
    )
    info = precompute(config)
    assert (info.num_images, info.num_rejected) == (11, 1)
    rejected = ray.data.read_parquet(str(out / "rejected")).take_all()
    assert rejected == [{"source": "005.png", "reason": "kills the decoder (signal 11)"}]
    assert verify_set(out) == []


def test_a_job_whose_actors_always_die_ends_and_keeps_what_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadly.write_pictures(tmp_path / "data", 12, {5: "orphan"})
    source = deadly.DeadlySaliency()
    monkeypatch.setattr(PrecomputeConfig, "make_saliency", lambda self: source)
    monkeypatch.setattr("pipeline.precompute.ray_job.MAX_RETRIES", 1)
    config = PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=4)
    with pytest.raises(RuntimeError, match="processes died again and again over shard-000001"):
        precompute(config)
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert_all_cpus_are_free()


def assert_all_cpus_are_free() -> None:
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "the actors still hold their CPUs"
        time.sleep(0.2)


def test_an_error_of_the_program_is_raised_with_what_it_says(
    config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = deadly.Faulty()
    monkeypatch.setattr(PrecomputeConfig, "make_saliency", lambda self: source)
    with pytest.raises(RuntimeError, match="a fault of the source's own") as caught:
        precompute(config)
    assert "deadly.py" in str(caught.value), "the trace is lost"
    assert_all_cpus_are_free()


def test_a_source_that_kills_its_process_is_one_clear_error(
    config: PrecomputeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PrecomputeConfig, "make_saliency", lambda self: deadly.DiesAlways())
    with pytest.raises(
        InputError, match=r"shard-\d+ cannot be made: the saliency source's process"
    ):
        precompute(config)
    assert not (Path(config.out) / "dataset.json").exists()
    assert_all_cpus_are_free()
