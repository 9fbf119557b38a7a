"""One shard without Ray: what is made again, what is refused, what one bad image costs."""

import errno
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.build import ShardJob, ensure_shard
from pipeline.precompute.plan import make_plan
from pipeline.precompute.plan_files import planned_rows, write_plan
from pipeline.saliency.boundary import Boundary
from pipeline.shardset.manifest import DatasetInfo, read_manifest
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import manifest_path, rejected_path, sample_key, shard_path
from pipeline.sources.collected import collect
from pipeline.sources.registry import SourceOptions, open_source
from pipeline.storage.local_store import LocalStore
from pipeline.storage.storage import open_store

NAME = "shard-000000"


def write_pictures(data: Path, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)


def job_for(data: Path, out: Path, options: SourceOptions | None = None) -> ShardJob:
    listing = open_source(data, options or SourceOptions())
    plan = make_plan(
        collect(listing),
        {"saliency": "boundary"},
        shard_images=100,
        shard_bytes=1 << 30,
        keeps_order=listing.keeps_order,
    )
    assert plan.num_shards == 1
    write_plan(open_store(out), plan)
    return ShardJob(
        data=listing.place,
        out=open_store(out),
        plan_digest=plan.digest,
        saliency=Boundary(),
        saliency_size=56,
        max_pixels=1_000_000,
    )


def root_of(job: ShardJob, which: str = "out") -> Path:
    store = job.out if which == "out" else job.data.store
    assert isinstance(store, LocalStore)
    return store.root


def sources_of(job: ShardJob) -> list[str]:
    return list(planned_rows(job.out, job.number).column("source").to_pylist())


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
    reader = ShardSetReader(root_of(job), info)
    rows = read_manifest(job.out, NAME).to_pylist()
    assert [row["source"] for row in rows] == sources_of(job)
    for number, row in enumerate(rows):
        original = (root_of(job, "data") / row["source"]).read_bytes()
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
    before = shard_path(root_of(job), NAME).stat().st_mtime_ns
    again = ensure_shard(job)
    assert again == replace(first, rebuilt=False)
    assert shard_path(root_of(job), NAME).stat().st_mtime_ns == before


def damage_tar(job: ShardJob) -> None:
    path = shard_path(root_of(job), NAME)
    data = bytearray(path.read_bytes())
    data[2000] ^= 1  # one bit, the size stays
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda job: shard_path(root_of(job), NAME).unlink(),
        lambda job: shard_path(root_of(job), NAME).write_bytes(b"short"),
        damage_tar,
        lambda job: manifest_path(root_of(job), NAME).unlink(),
        lambda job: manifest_path(root_of(job), NAME).write_bytes(b"PAR1"),
        lambda job: rejected_path(root_of(job), NAME).unlink(),
        lambda job: rejected_path(root_of(job), NAME).write_bytes(b""),
    ],
    ids=["no tar", "short tar", "one bit", "no manifest", "bad manifest", "no list", "bad list"],
)
def test_whatever_is_broken_is_made_again_the_same(job: ShardJob, damage: Any) -> None:  # noqa: ANN401
    first = ensure_shard(job)
    data = shard_path(root_of(job), NAME).read_bytes()
    damage(job)
    assert ensure_shard(job) == first
    assert shard_path(root_of(job), NAME).read_bytes() == data
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
    rejected = pq.read_table(rejected_path(root_of(job), NAME)).to_pylist()
    reasons = {row["source"]: row["reason"] for row in rejected}
    assert set(reasons) == {"class_0/cut.png", "class_1/page.jpg", "class_1/big.png"}
    assert "truncated" in reasons["class_0/cut.png"]
    assert "not an image" in reasons["class_1/page.jpg"]
    assert "1000 x 1001 is more than 1000000 pixels" in reasons["class_1/big.png"]
    assert ensure_shard(job) == replace(built, rebuilt=False)


def test_a_changed_source_is_named(job: ShardJob) -> None:
    ensure_shard(job)
    shard_path(root_of(job), NAME).unlink()
    victim = sources_of(job)[2]
    path = root_of(job, "data") / victim
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"{victim} has changed"):
        ensure_shard(job)
    assert not shard_path(root_of(job), NAME).exists()


def test_a_source_that_vanished_or_grew_is_named(job: ShardJob) -> None:
    victim = sources_of(job)[1]
    path = root_of(job, "data") / victim
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(InputError, match=rf"{victim} has \d+ bytes instead"):
        ensure_shard(job)
    path.unlink()
    with pytest.raises(InputError, match=rf"{victim} has vanished"):
        ensure_shard(job)
    assert list((root_of(job) / "shards").iterdir()) == []


@pytest.mark.parametrize(("num_failures", "succeeds"), [(2, True), (99, False)])
def test_reads_are_tried_again_and_never_reject(
    job: ShardJob, monkeypatch: pytest.MonkeyPatch, num_failures: int, succeeds: bool
) -> None:
    """A disk that fails: the file system cannot be made to, so a store stands in for it."""
    victim = sources_of(job)[3]
    tries: list[str] = []
    path = LocalStore.path

    def failing_path(self: LocalStore, name: str) -> Path:
        if name == victim:
            tries.append(victim)
            if len(tries) <= num_failures:
                raise OSError(errno.EIO, "Input/output error")
        return path(self, name)

    monkeypatch.setattr(LocalStore, "path", failing_path)
    failing = LocalStore(root_of(job, "data"), retry_seconds=1.0)
    job = replace(job, data=replace(job.data, store=failing))
    if succeeds:
        assert ensure_shard(job).info.num_images == 6
        assert len(tries) == 3
        return
    with pytest.raises(
        StoreUnavailable, match=rf"{victim} cannot be read: Input/output error \(tried"
    ):
        ensure_shard(job)
    assert len(tries) > 3
    assert not rejected_path(root_of(job), NAME).exists()


def test_the_image_that_is_decoded_is_told(job: ShardJob) -> None:
    told: list[tuple[str, ...]] = []
    ensure_shard(job, watch=lambda *sources: told.append(sources))
    alone = [at for source in sources_of(job) for at in ((source,), ())]
    assert told == [*alone, tuple(sources_of(job)), ()]


def test_what_is_known_to_break_a_decoder_is_never_decoded(job: ShardJob) -> None:
    victim = sources_of(job)[4]
    told: list[str] = []
    built = ensure_shard(
        replace(job, rejected={victim: "kills it"}), watch=lambda *s: told.extend(s)
    )
    assert (built.info.num_images, built.num_rejected) == (5, 1)
    assert victim not in told
    rejected = pq.read_table(rejected_path(root_of(job), NAME)).to_pylist()
    assert rejected == [{"source": victim, "reason": "kills it"}]


def test_images_are_made_smaller_on_request(tmp_path: Path) -> None:
    write_pictures(tmp_path / "data", 4)  # 50 wide, 40 to 43 high
    job = replace(job_for(tmp_path / "data", tmp_path / "out"), resize_short=41)
    whole = replace(job, out=open_store(tmp_path / "whole"), resize_short=0)
    (tmp_path / "whole").mkdir()
    for name in ("plan.json", "plan.arrow"):
        (tmp_path / "whole" / name).write_bytes((tmp_path / "out" / name).read_bytes())
    ensure_shard(job)
    ensure_shard(whole)
    rows = {row["source"]: row for row in read_manifest(job.out, NAME).to_pylist()}
    before = {row["source"]: row for row in read_manifest(whole.out, NAME).to_pylist()}
    sizes = {source: (r["height"], r["width"], r["image_ext"]) for source, r in rows.items()}
    assert sizes == {
        "class_0/0.png": (40, 50, "png"),
        "class_1/1.png": (41, 50, "png"),
        "class_0/2.png": (41, 49, "jpg"),
        "class_1/3.png": (41, 48, "jpg"),
    }
    tar = shard_path(tmp_path / "out", NAME).read_bytes()
    for source, row in rows.items():
        assert row["sha256"] == before[source]["sha256"]  # of the source, as ever
        data = tar[row["image_offset"] : row["image_offset"] + row["image_length"]]
        assert decode_stored(data).shape == (row["height"], row["width"], 3)
        if row["image_ext"] == "png":
            assert data == (tmp_path / "data" / source).read_bytes()
    shard_path(tmp_path / "out", NAME).unlink()
    ensure_shard(job)
    assert shard_path(tmp_path / "out", NAME).read_bytes() == tar


def test_orientation_turns_pixels_and_saliency_alike(tmp_path: Path) -> None:
    pixels = np.full((60, 100, 3), 200, np.uint8)
    pixels[5:25, 70:95] = (200, 30, 30)
    upright = PIL.Image.fromarray(pixels)
    (tmp_path / "data").mkdir()
    upright.save(tmp_path / "data" / "upright.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when shown
    upright.transpose(PIL.Image.Transpose.ROTATE_90).save(
        tmp_path / "data" / "turned.png", exif=exif
    )
    job = job_for(tmp_path / "data", tmp_path / "out")
    ensure_shard(job)
    rows = read_manifest(job.out, NAME).to_pylist()
    assert [(row["height"], row["width"]) for row in rows] == [(60, 100), (60, 100)]
    tar = shard_path(tmp_path / "out", NAME).read_bytes()
    found = []
    for row in rows:
        image = tar[row["image_offset"] : row["image_offset"] + row["image_length"]]
        start = row["saliency_offset"]
        levels = decode_saliency(tar[start : start + row["saliency_length"]])
        assert np.array_equal(decode_stored(image), pixels)
        found.append(levels)
    assert np.array_equal(found[0], found[1])
    assert found[0][:28, 28:].mean() > found[0][28:, :28].mean() + 20
