"""A precompute is killed, or a write of it fails, at every point once, and goes on.

The same command gives the same files, to the byte, on a disk and in a bucket. `make test` has a few
of the points.
"""

import shutil
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally
from pipeline.precompute.run import run_precompute
from tests.faults.lives import Subject, live, some
from tests.picture_folders import contents, write_pictures
from tests.s3_server import Bucket

NUM_SHARDS = 12
PARTS = range(2)


def config_of(data: Path, out: str | Path) -> PrecomputeConfig:
    return PrecomputeConfig(data=data, out=out, saliency="centre", saliency_size=8, shard_images=2)


class Precompute(Subject):
    """Twelve shards in a folder, with one bad image."""

    def __init__(self, root: Path, *, in_children: bool = False) -> None:
        data, self.out = root / "data", root / "out"
        write_pictures(data, 2 * NUM_SHARDS - 1)
        (data / "class_0" / "bad.jpg").write_bytes(b"no picture")
        work = partial(run_precompute, config_of(data, self.out))
        if in_children:
            work = partial(work, partial(build_locally, num_processes=1))
        super().__init__(
            partial(live, work, root / "notes", in_children=in_children),
            lambda: contents(self.out),
            lambda: shutil.rmtree(self.out),
            survives=in_children,
        )
        assert sum(name.endswith(".tar") for name in self.expected) == NUM_SHARDS

    def check_whole(self) -> None:
        """Nothing is half under its final name."""
        left = {name: file for name, file in contents(self.out).items() if name[-4:] != ".tmp"}
        assert left.items() <= self.expected.items()


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Precompute:
    return Precompute(tmp_path_factory.mktemp("precompute"))


def test_a_few_points(subject: Precompute) -> None:
    """All of them are in the tests below."""
    subject.disturb_all(some(subject.numbers, "a few", 2))
    subject.disturb_all(some(subject.numbers, "fails", 1), fails=True)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("fails", [False, True])
def test_at_every_point(subject: Precompute, fails: bool, part: int) -> None:
    for number in subject.numbers[part :: len(PARTS)]:
        subject.disturb(number, fails=fails, between=subject.check_whole)
        shutil.rmtree(subject.out)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_process_that_makes_a_shard_dies_or_fails(subject: Precompute, tmp_path: Path) -> None:
    """Its death is survived: another process makes the shard."""
    children = Precompute(tmp_path, in_children=True)
    assert children.expected == subject.expected
    assert set(children.points) < set(subject.points)
    for fails in (False, True):
        children.disturb_all(some(children.numbers, f"children {fails}", 4), fails=fails)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_uploads(bucket: Bucket, tmp_path: Path) -> None:
    """Three shards in a bucket, of which one is uploaded in parts."""
    write_pictures(tmp_path / "data", 5)
    pixels = np.random.default_rng(0).integers(0, 255, (1200, 1500, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "data" / "class_0" / "large.png"), pixels)

    def left() -> dict[str, bytes]:
        assert bucket.unfinished() == 0
        found = bucket.contents("out").items()
        return {name: data for name, data in found if not name.endswith(".versions")}

    def clear() -> None:
        for name in bucket.contents("out"):
            bucket.client.delete_object(Bucket=bucket.name, Key=f"out/{name}")

    work = partial(run_precompute, config_of(tmp_path / "data", bucket.url("out")))
    uploads = Subject(partial(live, work, tmp_path / "notes"), left, clear)
    assert sum(point.startswith("part ") for point in uploads.points) >= 2
    for fails in (False, True):
        uploads.disturb_all(uploads.numbers, fails=fails)
