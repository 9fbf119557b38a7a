"""One shard without Ray: what is made again, what is refused, what one bad image costs."""

import errno
import hashlib
import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import build
from pipeline.build import ShardJob, ensure_shard
from pipeline.codecs import decode_saliency, decode_stored
from pipeline.errors import InputError
from pipeline.manifest import DatasetInfo, read_manifest
from pipeline.plan import make_plan
from pipeline.saliency.boundary import Boundary
from pipeline.schema import manifest_path, rejected_path, sample_key, shard_path
from pipeline.shards import ShardSetReader
from pipeline.sources import list_folder

NAME = "shard-000000"


def write_pictures(data: Path, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)


def job_for(data: Path, out: Path) -> ShardJob:
    plan = make_plan(list_folder(data, labels=True), {"saliency": "boundary"}, 100, 1 << 30)
    (shard,) = plan.shards
    return ShardJob(
        data=data,
        out=out,
        shard=shard,
        plan_digest=plan.digest,
        saliency=Boundary(),
        saliency_size=56,
        max_pixels=1_000_000,
    )


@pytest.fixture
def job(tmp_path: Path) -> ShardJob:
    write_pictures(tmp_path / "data")
    return job_for(tmp_path / "data", tmp_path / "out")


def test_a_shard_holds_every_image_of_its_plan(job: ShardJob) -> None:
    built = ensure_shard(job)
    assert (built.info.num_images, built.num_rejected, built.rebuilt) == (6, 0, True)
    info = DatasetInfo(
        schema_version=1,
        shards=(built.info,),
        class_names=("class_0", "class_1"),
        saliency={},
        saliency_size=56,
        plan_digest=job.plan_digest,
        num_rejected=0,
        versions={},
    )
    reader = ShardSetReader(job.out, info)
    rows = read_manifest(job.out, NAME).to_pylist()
    assert [row["source"] for row in rows] == [image.source for image in job.shard.images]
    for number, row in enumerate(rows):
        original = (job.data / row["source"]).read_bytes()
        sample = reader.read(number)
        assert sample.image == original
        assert (sample.key, sample.label) == (sample_key(row["source"]), row["label"])
        assert row["label"] == int(row["source"][len("class_")])
        assert row["sha256"] == hashlib.sha256(original).hexdigest()
        pixels = decode_stored(original)
        assert (row["height"], row["width"]) == pixels.shape[:2]
        levels = decode_saliency(sample.saliency)
        assert row["saliency_mean"] == pytest.approx(levels.mean() / 255)
        assert row["saliency_std"] == pytest.approx(levels.std() / 255)
        assert 0 < row["foreground_share"] <= 1
        assert levels.std() > 0


def test_a_whole_shard_is_left_alone(job: ShardJob) -> None:
    first = ensure_shard(job)
    before = shard_path(job.out, NAME).stat().st_mtime_ns
    again = ensure_shard(job)
    assert again == replace(first, rebuilt=False)
    assert shard_path(job.out, NAME).stat().st_mtime_ns == before


def damage_tar(job: ShardJob) -> None:
    path = shard_path(job.out, NAME)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1  # one bit, the size stays
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda job: shard_path(job.out, NAME).unlink(),
        lambda job: shard_path(job.out, NAME).write_bytes(b"short"),
        damage_tar,
        lambda job: manifest_path(job.out, NAME).unlink(),
        lambda job: manifest_path(job.out, NAME).write_bytes(b"PAR1"),
        lambda job: rejected_path(job.out, NAME).unlink(),
        lambda job: rejected_path(job.out, NAME).write_bytes(b""),
    ],
    ids=["no tar", "short tar", "one bit", "no manifest", "bad manifest", "no list", "bad list"],
)
def test_whatever_is_broken_is_made_again_the_same(job: ShardJob, damage: Any) -> None:  # noqa: ANN401
    first = ensure_shard(job)
    data = shard_path(job.out, NAME).read_bytes()
    damage(job)
    assert ensure_shard(job) == first
    assert shard_path(job.out, NAME).read_bytes() == data
    assert ensure_shard(job).rebuilt is False


def test_a_shard_of_another_plan_is_made_again(job: ShardJob) -> None:
    ensure_shard(job)
    assert ensure_shard(replace(job, plan_digest="other")).rebuilt is True


def test_bad_images_cost_themselves(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_pictures(data)
    good = (data / "class_0" / "0.png").read_bytes()
    (data / "class_0" / "cut.png").write_bytes(good[: len(good) // 2])
    (data / "class_1" / "page.jpg").write_bytes(b"<html></html>")
    big = np.zeros((1001, 1000, 3), np.uint8)
    cv2.imwrite(str(data / "class_1" / "big.png"), big)
    job = job_for(data, tmp_path / "out")
    built = ensure_shard(job)
    assert (built.info.num_images, built.num_rejected) == (6, 3)
    rejected = pq.read_table(rejected_path(job.out, NAME)).to_pylist()
    reasons = {row["source"]: row["reason"] for row in rejected}
    assert set(reasons) == {"class_0/cut.png", "class_1/page.jpg", "class_1/big.png"}
    assert "truncated" in reasons["class_0/cut.png"]
    assert "not an image" in reasons["class_1/page.jpg"]
    assert "1000 x 1001 is more than 1000000 pixels" in reasons["class_1/big.png"]
    assert ensure_shard(job) == replace(built, rebuilt=False)


def test_a_changed_source_is_named(job: ShardJob) -> None:
    ensure_shard(job)
    shard_path(job.out, NAME).unlink()
    path = job.data / job.shard.images[2].source
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{job.shard.images[2].source} has changed"):
        ensure_shard(job)
    assert not shard_path(job.out, NAME).exists()


def test_a_source_that_vanished_or_grew_is_named(job: ShardJob) -> None:
    path = job.data / job.shard.images[1].source
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(InputError, match=rf"{job.shard.images[1].source} has \d+ bytes instead"):
        ensure_shard(job)
    path.unlink()
    with pytest.raises(InputError, match=rf"{job.shard.images[1].source} has vanished"):
        ensure_shard(job)
    assert list((job.out / "shards").iterdir()) == []


@pytest.mark.parametrize(("num_failures", "succeeds"), [(2, True), (99, False)])
def test_reads_are_tried_again_and_never_reject(
    job: ShardJob, monkeypatch: pytest.MonkeyPatch, num_failures: int, succeeds: bool
) -> None:
    """A disk that fails: the file system cannot be made to, so `open` stands in for it."""
    victim = job.shard.images[3].source
    tries: list[str] = []

    def failing_open(path: Any, mode: str) -> Any:  # noqa: ANN401
        if victim.encode() in os.fsencode(path):
            tries.append(victim)
            if len(tries) <= num_failures:
                raise OSError(errno.EIO, "Input/output error")
        return io.open(path, mode)  # noqa: UP020

    monkeypatch.setattr(build, "open", failing_open, raising=False)
    monkeypatch.setattr(build, "READ_PAUSES", (0.0, 0.0, 0.0))
    if succeeds:
        assert ensure_shard(job).info.num_images == 6
        assert len(tries) == 3
        return
    with pytest.raises(InputError, match=rf"{victim} cannot be read: Input/output error \(4 tries"):
        ensure_shard(job)
    assert len(tries) == 4
    assert not rejected_path(job.out, NAME).exists()
