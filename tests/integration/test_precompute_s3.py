"""From bucket to bucket on a real S3 server: the same bytes, and outages."""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.ray_job import build_on_ray
from pipeline.precompute.run import run_precompute
from pipeline.shardset.manifest import check_shards, load_dataset_info
from tests.picture_folders import write_pictures
from tests.s3_server import Bucket


def files(folder: Path) -> dict[str, bytes]:
    """All files but the one that depends on the place of the data."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".versions"
    }


def objects(bucket: Bucket, prefix: str = "out") -> dict[str, bytes]:
    """The same of a bucket."""
    found = bucket.contents(prefix).items()
    return {name: data for name, data in found if not name.endswith(".versions")}


@pytest.fixture
def local(tmp_path: Path) -> PrecomputeConfig:
    write_pictures(tmp_path / "data", 20)
    (tmp_path / "data" / "class_0" / "bad.jpg").write_bytes(b"no picture")
    return PrecomputeConfig(data=tmp_path / "data", out=tmp_path / "out", shard_images=4)


@pytest.fixture
def remote(local: PrecomputeConfig, bucket: Bucket) -> PrecomputeConfig:
    bucket.upload(Path(local.data), "data")
    return replace(local, data=bucket.url("data"), out=bucket.url("out"))


@pytest.mark.usefixtures("ray_session")
def test_bucket_to_bucket_gives_the_same_bytes_through_an_outage(
    local: PrecomputeConfig, remote: PrecomputeConfig, bucket: Bucket
) -> None:
    expected = run_precompute(local)
    there: list[int] = []

    def cut_in_the_middle() -> None:
        while len([name for name in objects(bucket) if name.startswith("shards/")]) < 2:
            time.sleep(0.05)
        bucket.wire.cut()
        there.append(len(objects(bucket)))
        time.sleep(5.0)
        bucket.wire.mend()

    cutter = threading.Thread(target=cut_in_the_middle, daemon=True)
    cutter.start()
    info = run_precompute(remote, build_on_ray)
    cutter.join(timeout=60)
    assert there, "the job was over before the wire was cut"
    assert info == expected
    assert objects(bucket) == files(Path(local.out))
    assert there[0] < len(objects(bucket)), "all was written when the wire was cut"
    assert bucket.unfinished() == 0


def test_a_long_outage_ends_with_one_line_and_a_rerun_goes_on(
    local: PrecomputeConfig, remote: PrecomputeConfig, bucket: Bucket
) -> None:
    run_precompute(local)
    data, out = (bucket.url(name, retry_seconds=1) for name in ("data", "out"))

    def cut_after_two(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
        for job in jobs[:2]:
            ensure_shard(job)
        bucket.wire.cut()
        return [ensure_shard(job) for job in jobs]

    line = rf"^s3://{bucket.name}/.* \(tried again for 1 s\)$"
    with pytest.raises(StoreUnavailable, match=line) as caught:
        run_precompute(replace(remote, data=data, out=out), cut_after_two)
    assert "\n" not in str(caught.value)
    bucket.wire.mend()
    before, whole = objects(bucket), files(Path(local.out))
    assert before.items() < whole.items()
    assert "dataset.json" not in before
    assert len([name for name in before if name.startswith("shards/")]) == 2
    run_precompute(remote)
    assert objects(bucket) == whole


def test_an_outage_while_an_image_is_read_rejects_nothing(
    remote: PrecomputeConfig, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second is fetched once the first is through.
    monkeypatch.setattr("pipeline.sources.reading.READ_AHEAD", 1)
    impatient = replace(remote, data=bucket.url("data", retry_seconds=1))

    def cut(num_images: int) -> AbstractContextManager[None]:
        bucket.wire.cut()
        return nullcontext()

    def cut_at_the_first_image(jobs: Sequence[ShardJob]) -> list[BuiltShard]:
        ensure_shard(jobs[0], limit=cut)
        raise AssertionError("the shard was made without its images")

    with pytest.raises(StoreUnavailable, match=r"data/class_\d/.* cannot be read"):
        run_precompute(impatient, cut_at_the_first_image)
    bucket.wire.mend()
    names = objects(bucket)
    assert set(names) == {"plan.json", "plan.arrow"}


def test_what_is_broken_in_a_bucket_is_made_again(
    remote: PrecomputeConfig, bucket: Bucket, local: PrecomputeConfig, tmp_path: Path
) -> None:
    info = run_precompute(remote)
    before = objects(bucket)
    bucket.put("out/shards/shard-000001.tar", b"cut")
    bucket.client.delete_object(Bucket=bucket.name, Key="out/manifest/shard-000003.parquet")
    with pytest.raises(InputError, match=r"shard s3://.*shard-000001\.tar is damaged: 3 bytes"):
        check_shards(str(remote.out), info)
    assert run_precompute(remote) == info
    assert objects(bucket) == before
    check_shards(str(remote.out), load_dataset_info(str(remote.out)))
    # here to there, and there to here
    assert run_precompute(replace(local, out=bucket.url("up"))) == info
    assert run_precompute(replace(remote, out=tmp_path / "down")) == info
    assert files(tmp_path / "down") == before == objects(bucket, "up")


def test_places_that_cannot_be_used_end_early(
    local: PrecomputeConfig, remote: PrecomputeConfig, bucket: Bucket, tmp_path: Path
) -> None:
    nowhere = bucket.url("out", bucket="no-such-bucket")
    with pytest.raises(InputError, match=r"s3://no-such-bucket/out.*: 404 Not Found: .*bucket"):
        run_precompute(replace(local, out=nowhere))
    with pytest.raises(InputError, match="--out is the data folder itself, s3://"):
        run_precompute(replace(remote, out=remote.data))
    with bucket.no_access():
        with pytest.raises(InputError, match=r"/data cannot be listed: 403 Forbidden"):
            run_precompute(replace(remote, out=tmp_path / "out"))
        with pytest.raises(InputError, match=r"/out/removal\.json cannot be looked up: 403"):
            run_precompute(replace(local, out=remote.out))
    assert objects(bucket) == {}
    bucket.put("empty/x/1.jpg", b"no picture")
    nothing = replace(remote, data=bucket.url("empty"), max_rejected_fraction=1.0)
    with pytest.raises(InputError, match=r"none of the 1 images .*: x/1\.jpg: not an image"):
        run_precompute(nothing)
    assert objects(bucket) == {}
