"""Shards of a bucket are read from the local disk: fetched once, checked, within a limit."""

import os
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.shardset.cache import GIB, CacheConfig, ShardCache, default_cache_folder
from pipeline.shardset.manifest import DatasetInfo, ShardInfo, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import shard_file
from pipeline.storage.storage import open_store
from tests.s3_server import Bucket, FarWire
from tests.shard_sets import write_shard_set


@pytest.fixture(scope="module")
def local_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of four shards."""
    root = tmp_path_factory.mktemp("made") / "shards"
    write_shard_set(root, num_images=32, shard_images=8)
    return root


@pytest.fixture
def info(local_set: Path, bucket: Bucket) -> DatasetInfo:
    """Of the same set in the bucket."""
    bucket.upload(local_set, "set")
    return load_dataset_info(bucket.url("set"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def cached(folder: Path) -> dict[str, int]:
    """The shards that are there, and the file each is."""
    return {path.stem: path.stat().st_ino for path in folder.glob("*.tar")}


def cache_of(bucket: Bucket, folder: Path, limit_gib: float = 64.0, **options: str) -> ShardCache:
    config = CacheConfig(folder=folder, limit_gib=limit_gib)
    return ShardCache(open_store(bucket.url("set", **options)), config)


def use(cache: ShardCache, shard: ShardInfo) -> None:
    os.close(cache.open(shard))


def fetched_ahead(wire: FarWire, bucket: Bucket, folder: Path, **options: str) -> ShardSetReader:
    """A reader over a wire, that was told of all shards."""
    url = bucket.url("set", **options).replace(str(bucket.wire.port), str(wire.port))
    reader = ShardSetReader(url, load_dataset_info(bucket.url("set")), CacheConfig(folder=folder))
    reader.ahead(range(len(reader.info.shards)))
    return reader


def test_samples_are_those_of_the_local_set(
    local_set: Path, bucket: Bucket, info: DatasetInfo, folder: Path
) -> None:
    local = ShardSetReader(local_set, info)
    made = ShardSetReader(bucket.url("set"), info, CacheConfig(folder=folder))
    remote: ShardSetReader = pickle.loads(pickle.dumps(made))
    for number in (0, 9, 31):
        assert remote.read(number) == local.read(number)
        assert np.array_equal(remote.read_map(number), local.read_map(number))
    assert cached(folder).keys() == {info.shards[number].sha256 for number in (0, 1, 3)}
    assert remote.labels().tolist() == local.labels().tolist()


def test_a_shard_is_fetched_once_for_all(bucket: Bucket, info: DatasetInfo, folder: Path) -> None:
    folder.mkdir()
    orphan = folder / f".{info.shards[1].sha256}.tar.012345.tmp"
    orphan.write_bytes(b"left by a process that was killed")
    caches = [cache_of(bucket, folder) for _ in range(4)]
    threads = [threading.Thread(target=use, args=(c, info.shards[0])) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    before = cached(folder)
    assert not orphan.exists()
    bucket.wire.cut()  # nobody asks the bucket again
    use(cache_of(bucket, folder), info.shards[0])
    assert cached(folder) == before
    assert len(before) == 1


def test_shards_are_fetched_ahead_of_use(bucket: Bucket, info: DatasetInfo, folder: Path) -> None:
    reader = ShardSetReader(bucket.url("set"), info, CacheConfig(folder=folder))
    reader.ahead([2, 0])
    deadline = time.monotonic() + 60
    while len(before := cached(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert before.keys() == {info.shards[2].sha256, info.shards[0].sha256}
    assert (reader.read(16).shard, reader.read(0).shard) == ("shard-000002", "shard-000000")
    assert cached(folder) == before


def test_what_was_fetched_ahead_needs_no_more_requests(
    local_set: Path, bucket: Bucket, info: DatasetInfo, folder: Path
) -> None:
    """Not even for the manifests: a training would wait for each of them."""
    wire, local = FarWire(bucket.server_port), ShardSetReader(local_set, info)
    reader = fetched_ahead(wire, bucket, folder, retry_seconds="0")
    deadline = time.monotonic() + 60
    while len(cached(folder)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    wire.cut()
    assert all(reader.read(number) == local.read(number) for number in range(32))
    assert wire.num_requests == 8  # a manifest and a shard, four times


def test_failures_on_a_far_wire_are_overcome(
    local_set: Path, bucket: Bucket, info: DatasetInfo, folder: Path
) -> None:
    wire, local = FarWire(bucket.server_port, fails=0.4), ShardSetReader(local_set, info)
    reader = fetched_ahead(wire, bucket, folder)
    assert all(reader.read(number) == local.read(number) for number in range(32))
    wire.cut()
    assert wire.num_failed > 0


def test_what_was_used_longest_ago_goes_and_comes_again(
    bucket: Bucket, info: DatasetInfo, folder: Path
) -> None:
    two = (info.shards[0].num_bytes + info.shards[1].num_bytes + 4096) / GIB
    cache = cache_of(bucket, folder, two)
    held = cache.open(info.shards[0])
    for shard in (info.shards[1], info.shards[0], info.shards[2]):
        time.sleep(0.01)  # times of use on disk may be coarse
        use(cache, shard)
    assert cached(folder).keys() == {info.shards[0].sha256, info.shards[2].sha256}
    use(cache, info.shards[1])
    assert cached(folder).keys() == {info.shards[1].sha256, info.shards[2].sha256}
    # What went while it was open is still read.
    assert len(os.pread(held, info.shards[0].num_bytes, 0)) == info.shards[0].num_bytes
    os.close(held)
    with pytest.raises(InputError, match=r"limit_gib .* too small .* the 3 shards"):
        cache.check_fits(info.shards, 3)
    cache.check_fits(info.shards, 1)


def test_what_cannot_be_fetched_is_named(
    bucket: Bucket, info: DatasetInfo, folder: Path, tmp_path: Path
) -> None:
    shard = info.shards[0]
    cache = cache_of(bucket, folder, retry_seconds="0")
    bucket.wire.cut()
    with pytest.raises(StoreUnavailable, match="shard-000000"):
        use(cache, shard)
    bucket.wire.mend()
    use(cache, shard)  # a later try goes on
    assert list(cached(folder)) == [shard.sha256]
    cache = cache_of(bucket, tmp_path / "other")
    bucket.put(f"set/{shard_file(shard.name)}", b"x" * shard.num_bytes)
    with pytest.raises(InputError, match=r"shard-000000\.tar is not what dataset\.json says"):
        cache.open(shard)
    bucket.client.delete_object(Bucket=bucket.name, Key=f"set/{shard_file(shard.name)}")
    with pytest.raises(InputError, match=r"shard-000000\.tar is missing"):
        cache.open(shard)
    assert cached(tmp_path / "other") == {}
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot be written to the cache .*file"):
        use(cache_of(bucket, tmp_path / "file"), shard)


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        CacheConfig(limit_gib=0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / "salmask" / "shards"
