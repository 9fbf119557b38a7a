"""One shard without Ray: what is made again, what is refused, what one bad image costs."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.core.errors import InputError, StoreUnavailable
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.precompute.build import ShardJob, ensure_shard, rehearse
from pipeline.precompute.plan import planned_rows
from pipeline.saliency.boundary import Boundary
from pipeline.shardset.manifest import read_manifest, read_rejected
from pipeline.shardset.schema import manifest_file, rejected_file, sample_key, shard_file
from pipeline.storage.store import LocalStore
from tests.shard_jobs import job_of_folder, out_of

NAME = "shard-000000"
TAR = shard_file(NAME)


def write_pictures(data: Path, count: int = 6) -> None:
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = data / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (40 + number, 50, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), pixels)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def job(data: Path, tmp_path: Path) -> ShardJob:
    return job_of_folder(data, tmp_path / "out", Boundary(), labels=True, saliency_size=56)


def sources_of(job: ShardJob) -> list[str]:
    return list(planned_rows(job.out, job.number).column("source").to_pylist())


def rows_of(job: ShardJob) -> list[dict[str, Any]]:
    return list(read_manifest(job.out, NAME).to_pylist())


def member(job: ShardJob, row: dict[str, Any], column: str) -> bytes:
    return job.out.read(TAR, row[f"{column}_offset"], row[f"{column}_length"])


def reasons(job: ShardJob) -> dict[str, str]:
    return {row["source"]: row["reason"] for row in read_rejected(job.out, NAME).to_pylist()}


def test_a_shard_holds_every_image_of_its_plan(job: ShardJob, data: Path) -> None:
    built = ensure_shard(job)
    assert (built.info.num_images, built.num_rejected, built.rebuilt) == (6, 0, True)
    rows = rows_of(job)
    assert [row["source"] for row in rows] == sources_of(job)
    for row in rows:
        original = (data / row["source"]).read_bytes()
        assert member(job, row, "image") == original
        assert row["key"] == sample_key(row["source"])
        assert row["label"] == int(row["source"][len("class_")])
        assert row["sha256"] == hashlib.sha256(original).hexdigest()
        assert (row["height"], row["width"]) == decode_stored(original).shape[:2]
        levels = decode_saliency(member(job, row, "saliency"))
        assert row["saliency_mean"] == pytest.approx(levels.mean() / 255)
        assert row["saliency_std"] == pytest.approx(levels.std() / 255)
        assert 0 < row["foreground_share"] <= 1
        assert levels.std() > 0


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(TAR, Path.unlink, id="no tar"),
        pytest.param(TAR, lambda path: path.write_bytes(b"short"), id="short tar"),
        pytest.param(TAR, flip_a_bit, id="one bit"),
        pytest.param(manifest_file(NAME), Path.unlink, id="no manifest"),
        pytest.param(manifest_file(NAME), lambda p: p.write_bytes(b"PAR1"), id="bad manifest"),
        pytest.param(rejected_file(NAME), Path.unlink, id="no list"),
        pytest.param(rejected_file(NAME), lambda path: path.write_bytes(b""), id="bad list"),
    ],
)
def test_only_what_is_broken_is_made_again_the_same(
    job: ShardJob, name: str, damage: Callable[[Path], object]
) -> None:
    first = ensure_shard(job)
    data, written = job.out.read(TAR), (out_of(job) / TAR).stat().st_mtime_ns
    assert ensure_shard(job) == replace(first, rebuilt=False)
    assert (out_of(job) / TAR).stat().st_mtime_ns == written
    damage(out_of(job) / name)
    assert ensure_shard(job) == first
    assert job.out.read(TAR) == data
    assert ensure_shard(replace(job, plan_digest="other")).rebuilt is True


def test_bad_images_cost_themselves(data: Path, tmp_path: Path) -> None:
    good = (data / "class_0" / "0.png").read_bytes()
    (data / "class_0" / "cut.png").write_bytes(good[: len(good) // 2])
    (data / "class_1" / "page.jpg").write_bytes(b"<html></html>")
    cv2.imwrite(str(data / "class_1" / "big.png"), np.zeros((1001, 100, 3), np.uint8))
    job = job_of_folder(data, tmp_path / "out", Boundary())
    known = "class_0/2.png"
    worked: list[int] = []

    @contextmanager
    def limit(num_images: int) -> Iterator[None]:
        worked.append(num_images)
        yield

    built = ensure_shard(replace(job, rejected={known: "kills it"}), limit)
    assert (built.info.num_images, built.num_rejected) == (5, 4)
    assert worked == [1] * 8 + [5], "each image that is decoded, and the batch of maps"
    found = reasons(job)
    assert "truncated" in found.pop("class_0/cut.png")
    assert found == {
        known: "kills it",
        "class_1/page.jpg": "not an image in a format that can be read, but a web page",
        "class_1/big.png": "100 x 1001 is more than 100000 pixels",
    }
    assert ensure_shard(job) == replace(built, rebuilt=False)
    before = job.out.read(TAR)
    planned = planned_rows(job.out, job.number)
    for number in range(9):
        rehearse(job, planned.slice(number, 1))
    assert job.out.read(TAR) == before


def test_a_source_that_changed_is_named(job: ShardJob, data: Path) -> None:
    ensure_shard(job)
    tar, victim = out_of(job) / TAR, sources_of(job)[2]
    content = (data / victim).read_bytes()
    for new, words in (
        (content[:-1] + b"x", "has changed"),
        (content + b"x", r"has \d+ bytes instead"),
        (None, "has vanished"),
    ):
        tar.unlink(missing_ok=True)
        (data / victim).unlink() if new is None else (data / victim).write_bytes(new)
        with pytest.raises(InputError, match=f"{victim} {words}"):
            ensure_shard(job)
        assert list(tar.parent.iterdir()) == []


def test_reads_are_tried_again_and_never_reject(
    job: ShardJob, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails: the file system cannot be made to, so a store stands in for it."""
    victim = sources_of(job)[3]
    failures = [99]
    path = LocalStore.path

    def failing_path(self: LocalStore, name: str) -> Path:
        if name == victim and failures[0]:
            failures[0] -= 1
            raise OSError(errno.EIO, "Input/output error")
        return path(self, name)

    monkeypatch.setattr(LocalStore, "path", failing_path)
    job = replace(job, data=replace(job.data, store=LocalStore(data, retry_seconds=0.5)))
    words = rf"{victim} cannot be read: Input/output error \(tried"
    with pytest.raises(StoreUnavailable, match=words):
        ensure_shard(job)
    assert job.out.size(rejected_file(NAME)) is None
    assert failures[0] < 97
    failures[0] = 2
    assert ensure_shard(job).info.num_images == 6


def test_images_are_made_smaller_on_request(job: ShardJob, data: Path) -> None:
    job = replace(job, resize_short=43)  # the pictures are 50 wide, 40 to 45 high
    ensure_shard(job)
    rows = {row["source"]: row for row in rows_of(job)}
    sizes = {source: (r["height"], r["width"], r["image_ext"]) for source, r in rows.items()}
    assert sizes == {
        **{f"class_{n % 2}/{n}.png": (40 + n, 50, "png") for n in range(4)},
        "class_0/4.png": (43, 49, "jpg"),
        "class_1/5.png": (43, 48, "jpg"),
    }
    for source, row in rows.items():
        original, stored = (data / source).read_bytes(), member(job, row, "image")
        assert row["sha256"] == hashlib.sha256(original).hexdigest()  # of the source, as ever
        assert decode_stored(stored).shape == (row["height"], row["width"], 3)
        assert (stored == original) is (row["image_ext"] == "png")
