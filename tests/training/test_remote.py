"""Shards in a bucket: the same run as from a local disk, through the cache."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.shardset.cache import CacheConfig
from tests.runs import StopsAfter, numbers, run, small_run
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set
from training.config.pretrain import PretrainConfig
from training.config.settings import KnnConfig
from training.ray.nodes import digests_of, look, token_in


@pytest.fixture
def local(tmp_path: Path) -> PretrainConfig:
    write_shard_set(tmp_path / "shards", num_images=40, shard_images=2)
    write_shard_set(tmp_path / "val", num_images=12, first_number=1000)
    return small_run(tmp_path / "shards", tmp_path / "local")


@pytest.fixture
def remote(tmp_path: Path, local: PretrainConfig, bucket: Bucket) -> PretrainConfig:
    bucket.upload(tmp_path / "shards", "shards")
    bucket.upload(tmp_path / "val", "val")
    return replace(
        local,
        shards=bucket.url("shards"),
        out=tmp_path / "remote",
        knn=KnnConfig(val_shards=bucket.url("val"), every_epochs=1, k=5),
        cache=CacheConfig(folder=tmp_path / "cache"),
        loader_workers=1,
    )


def test_the_run_is_the_same_and_may_move_to_a_bucket_in_its_middle(
    tmp_path: Path, local: PretrainConfig, remote: PretrainConfig
) -> None:
    assert run(local).finished
    assert run(remote, StopsAfter(7)).step == 7
    assert run(replace(remote, loader_workers=0)).finished
    assert numbers(remote.out) == numbers(local.out)
    assert len(list((tmp_path / "cache").glob("*.tar"))) == 20 + 1
    moved = replace(local, out=tmp_path / "moved")
    assert not run(moved, StopsAfter(3)).finished
    assert run(replace(remote, out=moved.out, loader_workers=0)).finished
    assert numbers(moved.out) == numbers(local.out)


def test_a_cache_that_holds_too_little_is_refused_before_anything_is_written(
    remote: PretrainConfig,
) -> None:
    with pytest.raises(InputError, match=r"cache\.limit_gib 1e-05 is too small"):
        run(replace(remote, cache=CacheConfig(folder=remote.cache.folder, limit_gib=1e-5)))
    assert not remote.out.exists()


def test_a_missing_shard_is_named_before_anything_is_written(
    remote: PretrainConfig, bucket: Bucket
) -> None:
    bucket.client.delete_object(Bucket=bucket.name, Key="shards/shards/shard-000003.tar")
    with pytest.raises(InputError, match=r"shard-000003\.tar is missing"):
        run(remote)
    assert not remote.out.exists()


def test_a_node_looks_into_the_bucket(remote: PretrainConfig, bucket: Bucket) -> None:
    wanted = digests_of([remote.shards])
    with token_in(remote.out) as token:
        assert look(token, "node", wanted) is None
        bucket.client.delete_object(Bucket=bucket.name, Key="shards/dataset.json")
        wrong = look(token, "node", wanted)
    assert wrong is not None
    assert "dataset.json is missing" in wrong
