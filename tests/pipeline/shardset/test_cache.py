"""Shards of a bucket are read from the local disk: fetched once, checked, within a limit."""

import os
import pickle
import threading
import time
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.shardset.cache import CacheConfig, ShardCache, default_cache_folder
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import shard_file
from pipeline.storage.storage import open_store
from tests.s3_server import Bucket
from tests.shard_sets import write_shard_set

GIB = 1 << 30


@pytest.fixture
def info(tmp_path: Path, bucket: Bucket) -> DatasetInfo:
    """Of a set of four shards in the bucket, and the same below `tmp_path / "shards"`."""
    write_shard_set(tmp_path / "shards", num_images=32, shard_images=8)
    bucket.upload(tmp_path / "shards", "set")
    return load_dataset_info(bucket.url("set"))


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(folder=tmp_path / "cache")


def cached(config: CacheConfig) -> dict[str, int]:
    """The shards that are there, and the file each is."""
    assert config.folder is not None
    return {path.stem: path.stat().st_ino for path in config.folder.glob("*.tar")}


def cache_of(bucket: Bucket, config: CacheConfig, **options: str) -> ShardCache:
    return ShardCache(open_store(bucket.url("set", **options)), config)


def use(cache: ShardCache, shard: ShardInfo) -> None:
    os.close(cache.open(shard))


def test_samples_are_those_of_the_local_set(
    tmp_path: Path, bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    local = ShardSetReader(tmp_path / "shards", info)
    remote: ShardSetReader = pickle.loads(
        pickle.dumps(ShardSetReader(bucket.url("set"), info, config))
    )
    for number in (0, 9, 31):
        assert remote.read(number) == local.read(number)
        assert remote.read_saliency(number) == local.read_saliency(number)
    assert cached(config).keys() == {info.shards[number].sha256 for number in (0, 1, 3)}
    assert remote.labels().tolist() == local.labels().tolist()


def test_a_shard_is_fetched_once_for_all(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    caches = [cache_of(bucket, config) for _ in range(4)]
    threads = [threading.Thread(target=use, args=(c, info.shards[0])) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = cached(config)
    bucket.wire.cut()  # nobody asks the bucket again
    use(cache_of(bucket, config), info.shards[0])
    assert cached(config) == before
    assert len(before) == 1


def test_shards_are_fetched_ahead_of_use(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    reader = ShardSetReader(bucket.url("set"), info, config)
    reader.ahead([2, 0])
    deadline = time.monotonic() + 60
    while len(cached(config)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    before = cached(config)
    assert before.keys() == {info.shards[2].sha256, info.shards[0].sha256}
    assert reader.read(16).shard == "shard-000002"
    assert reader.read(0).shard == "shard-000000"
    assert cached(config) == before


def test_what_was_used_longest_ago_goes_and_comes_again(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    two = (info.shards[0].num_bytes + info.shards[1].num_bytes + 4096) / GIB
    small = CacheConfig(folder=config.folder, limit_gib=two)
    cache = cache_of(bucket, small)
    held = cache.open(info.shards[0])
    for shard in (info.shards[1], info.shards[0], info.shards[2]):
        time.sleep(0.01)  # times of use on disk may be coarse
        use(cache, shard)
    assert cached(small).keys() == {info.shards[0].sha256, info.shards[2].sha256}
    use(cache, info.shards[1])
    assert cached(small).keys() == {info.shards[1].sha256, info.shards[2].sha256}
    # What went while it was open is still read.
    assert len(os.pread(held, info.shards[0].num_bytes, 0)) == info.shards[0].num_bytes
    os.close(held)
    with pytest.raises(InputError, match=r"limit_gib .* too small .* the 3 shards"):
        cache.check_fits(info.shards, 3)
    cache.check_fits(info.shards, 1)


def test_other_bytes_than_the_set_says_are_refused(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    shard = info.shards[0]
    bucket.put(f"set/{shard_file(shard.name)}", b"x" * shard.num_bytes)
    with pytest.raises(InputError, match=r"shard-000000\.tar is not what dataset\.json says"):
        cache_of(bucket, config).open(shard)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"set/{shard_file(shard.name)}")
    with pytest.raises(InputError, match=r"shard-000000\.tar is missing"):
        cache_of(bucket, config).open(shard)
    assert cached(config) == {}


def test_an_outage_is_said_and_a_later_try_goes_on(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    cache = cache_of(bucket, config, retry_seconds="0")
    bucket.wire.cut()
    with pytest.raises(StoreUnavailable, match="shard-000000"):
        use(cache, info.shards[0])
    bucket.wire.mend()
    use(cache, info.shards[0])
    assert list(cached(config)) == [info.shards[0].sha256]


def test_leftovers_of_killed_processes_go(
    bucket: Bucket, info: DatasetInfo, config: CacheConfig
) -> None:
    assert config.folder is not None
    config.folder.mkdir()
    orphan = config.folder / f".{info.shards[1].sha256}.tar.012345.tmp"
    orphan.write_bytes(b"half")
    use(cache_of(bucket, config), info.shards[0])
    assert not orphan.exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, bucket: Bucket, info: DatasetInfo) -> None:
    (tmp_path / "file").write_text("x")
    cache = cache_of(bucket, CacheConfig(folder=tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot be written to the cache .*file"):
        use(cache, info.shards[0])


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        CacheConfig(limit_gib=0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "salmask" / "shards"
