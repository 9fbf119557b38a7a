"""Shards of the whole job, as other people's readers see them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray.data
import webdataset

from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from pipeline.shardset.reader import ShardSetReader
from tests.picture_folders import write_pictures
from tests.precompute_here import precompute_here


@pytest.fixture
def config(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data")
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=6)


@pytest.mark.usefixtures("ray_session")
def test_a_shard_without_any_good_image_is_read_too(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 3)
    (tmp_path / "data" / "class_0" / "bad.jpg").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=tmp_path / "data", out=tmp_path / "out", shard_images=1, max_rejected_fraction=0.5
    )
    info = precompute_here(config)
    assert sorted(shard.num_images for shard in info.shards) == [0, 1, 1, 1]
    assert (
        len({ShardSetReader(Path(config.out), info).read(number).key for number in range(3)}) == 3
    )
    urls = [str(path) for path in sorted((Path(config.out) / "shards").iterdir())]
    assert len(list(webdataset.WebDataset(urls, shardshuffle=False))) == 3
    rows = ray.data.read_webdataset(urls, decoder=None).take_all()
    assert len(rows) == 3


def test_stock_webdataset_reads_the_shards(config: PrecomputeConfig) -> None:
    info = precompute_here(config)
    urls = [str(Path(config.out) / "shards" / f"{shard.name}.tar") for shard in info.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 20
    reader = ShardSetReader(Path(config.out), info)
    for number, sample in enumerate(samples):
        ours = reader.read(number)
        extension = next(name for name in ("jpg", "png", "webp") if name in sample)
        assert sample["__key__"] == ours.key
        assert sample["cls"] == ours.label == sample["json"]["label"]
        assert np.array_equal(sample["saliency.png"][..., 0], decode_saliency(ours.saliency))
        shape = (sample["json"]["height"], sample["json"]["width"], 3)
        assert sample[extension].shape == shape == decode_stored(ours.image).shape


@pytest.mark.usefixtures("ray_session")
def test_stock_ray_reads_the_shards(config: PrecomputeConfig) -> None:
    info = precompute_here(config)
    keys = {ShardSetReader(Path(config.out), info).read(number).key for number in range(20)}
    # Ray's own decoder wants one image suffix in all samples: these are mixed, so bytes
    rows = ray.data.read_webdataset(str(Path(config.out) / "shards"), decoder=None).take_all()
    assert {row["__key__"] for row in rows} == keys
    labels = [json.loads(row["json"])["label"] for row in rows]
    assert labels == [int(row["cls"]) for row in rows]


@pytest.mark.usefixtures("ray_session")
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
