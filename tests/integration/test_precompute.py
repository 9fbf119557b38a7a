"""The whole job on a real Ray: made, made again, and broken off."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray.data

from pipeline.core.errors import InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
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


def test_a_set_is_complete_and_only_what_breaks_is_made_again_the_same(
    config: PrecomputeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = Path(config.data), Path(config.out)
    (data / "class_0" / "notes.txt").write_text("no picture")
    (data / "class_0" / "bad.jpg").write_bytes(b"no picture")
    info = run_precompute(config, build_on_ray)
    printed = capsys.readouterr().out
    assert "21 images (3 classes), 1 other file ignored (1 .txt); 4 shards" in printed
    assert "20 rows in 4 shards" in printed
    assert f"1 rejected (reasons in {out / 'rejected'}), 1 other file ignored" in printed
    assert "4 shards made, 0 skipped as whole; 21 images read" in printed
    assert load_dataset_info(out) == info
    check_shards(out, info)
    assert (info.num_images, info.num_rejected, len(info.shards)) == (20, 1, 4)
    assert info.class_names == ("class_0", "class_1", "class_2")
    assert info.saliency["source"] == "boundary"
    assert {"opencv", "pillow", "numpy"} <= info.versions.keys()
    assert not any(temporaries(folder) for folder in [out, *out.iterdir()])
    rejected = ray.data.read_parquet(str(out / "rejected")).take_all()
    reason = "not an image in a format that can be read"
    assert rejected == [{"source": "class_0/bad.jpg", "reason": reason}]
    reader = ShardSetReader(out, info)
    assert np.bincount(reader.labels()).tolist() == [7, 7, 6]
    for number in range(20):
        sample = reader.read(number)
        assert decode_stored(sample.image).shape == (48, 64, 3)
        assert decode_saliency(sample.saliency).shape == (56, 56)

    before = contents(out)
    shards = sorted((out / "shards").iterdir())
    untouched = {path: path.stat().st_mtime_ns for path in (shards[0], shards[3])}
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:1000])
    (out / "shards" / ".shard-000001.tar.0123.tmp").write_bytes(b"left by a killed run")
    (out / "dataset.json").unlink()
    # The place of the images is not part of the set.
    elsewhere = Path(shutil.copytree(data, tmp_path / "elsewhere" / "copy"))
    assert run_precompute(replace(config, data=elsewhere), build_on_ray) == info
    assert contents(out) == before
    assert untouched == {path: path.stat().st_mtime_ns for path in untouched}
    assert "2 shards made, 2 skipped as whole" in capsys.readouterr().out


def test_pictures_beside_class_folders_have_no_labels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "data", 4)
    shutil.copy(tmp_path / "data" / "class_0" / "picture 0.jpg", tmp_path / "data" / "top.jpg")
    info = run_precompute(PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out"))
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
    info = run_precompute(config, build_on_ray)
    assert (info.num_images, info.num_rejected) == (11, 1)
    rejected = ray.data.read_parquet(str(out / "rejected")).take_all()
    assert rejected == [{"source": "005.png", "reason": "kills the decoder (signal 11)"}]
    assert verify_set(out) == []


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            deadly.DeadlySaliency,
            RuntimeError,
            "processes died again and again over shard-000001",
        ),
        # With its trace: it is a fault of the program.
        (deadly.Faulty, RuntimeError, r"(?s)deadly\.py.*a fault of the source's own"),
        (
            deadly.DiesAlways,
            InputError,
            r"shard-\d+ cannot be made: the saliency source's process",
        ),
    ],
)
def test_a_source_that_always_fails_ends_the_job_and_frees_its_processes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Callable[[], object],
    error: type[Exception],
    message: str,
) -> None:
    deadly.write_pictures(tmp_path / "data", 12, {5: "orphan"})
    failing = source()
    monkeypatch.setattr(PrecomputeConfig, "make_saliency", lambda self: failing)
    monkeypatch.setattr("pipeline.precompute.ray_job.MAX_RETRIES", 1)
    config = PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=4)
    with pytest.raises(error, match=message):
        run_precompute(config, build_on_ray)
    assert not (tmp_path / "out" / "dataset.json").exists()
    deadline = time.monotonic() + 60
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, "the actors still hold their CPUs"
        time.sleep(0.2)
