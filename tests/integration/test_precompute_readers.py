"""Shards of the whole job, as other people's readers see them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import ray.data
import webdataset

from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.shardset.reader import ShardSetReader
from tests.picture_folders import write_pictures


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("shard_images", [1, 6])
def test_stock_webdataset_and_ray_read_the_shards(tmp_path: Path, shard_images: int) -> None:
    """Of one image each, one shard is empty: its image is damaged."""
    write_pictures(tmp_path / "data", 7)
    (tmp_path / "data" / "class_0" / "bad.jpg").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=tmp_path / "data",
        out=tmp_path / "out",
        shard_images=shard_images,
        max_rejected_fraction=0.5,
    )
    info = run_precompute(config)
    assert (0 in [shard.num_images for shard in info.shards]) == (shard_images == 1)
    urls = [str(tmp_path / "out" / "shards" / f"{shard.name}.tar") for shard in info.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 7
    reader = ShardSetReader(tmp_path / "out", info)
    for number, sample in enumerate(samples):
        ours = reader.read(number)
        extension = next(name for name in ("jpg", "png", "webp") if name in sample)
        assert sample["__key__"] == ours.key
        assert sample["cls"] == ours.label == sample["json"]["label"]
        assert np.array_equal(sample["saliency.png"][..., 0], decode_saliency(ours.saliency))
        shape = (sample["json"]["height"], sample["json"]["width"], 3)
        assert sample[extension].shape == shape == decode_stored(ours.image).shape
    # Ray's own decoder wants one image suffix in all samples: these are mixed, so bytes
    rows = ray.data.read_webdataset(urls, decoder=None).take_all()
    found = {row["__key__"]: int(row["cls"]) for row in rows}
    assert found == {sample["__key__"]: sample["cls"] for sample in samples}


@pytest.mark.usefixtures("ray_session")
def test_photographs(shared_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for folder in sorted((shared_data / "imagenette160" / "train").iterdir())[:3]:
        (data / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:5]:
            shutil.copy(path, data / folder.name / path.name)
    out = tmp_path / "out"
    config = PrecomputeConfig(data=data, out=out, saliency="spectral_residual")
    info = run_precompute(config, build_on_ray)
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
