"""A precompute is killed, or a write of it fails, at every point once, and goes on.

The same command gives the same files, to the byte, on a disk and in a bucket. `make test` has a few
of the points.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local_job import build_locally
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from tests.faults.lives import ERRORS, SIGKILL, Work, failed_clearly, live, some
from tests.picture_folders import contents, write_pictures
from tests.s3_server import Bucket

NUM_SHARDS = 12
PARTS = range(2)
"""A test has the points of one part: every second."""


@dataclass(frozen=True)
class Clean:
    """A precompute, its points and what comes of it; `leave` removes that."""

    work: Work
    points: list[str]
    files: dict[str, str]
    found: Callable[[], dict[str, str]]
    leave: Callable[[], None]

    def again(self, notes: Path) -> None:
        """The same command; what must come of it."""
        life = live(self.work, notes)
        assert life.code == 0, (notes.name, life.said)
        assert self.found() == self.files, notes.name

    def kill_at(self, number: int, tmp_path: Path) -> None:
        """Kill it, look that nothing half is under a final name, and go on."""
        name = self._name(number)
        life = live(self.work, tmp_path / name, number=number)
        assert (life.code, life.points) == (SIGKILL, self.points[:number]), (name, life.said)
        self._check_whole(name)
        self.again(tmp_path / f"{name}-again")
        self.leave()

    def fail_at(self, number: int, tmp_path: Path) -> None:
        """Let it fail, look at what it leaves, and go on if it ended."""
        name = self._name(number)
        life = live(self.work, tmp_path / name, ERRORS[number % len(ERRORS)], number)
        assert life.points[:number] == self.points[:number], (name, life.said)
        if failed_clearly(life):
            assert not [left for left in self.found() if left.endswith(".tmp")], name
            self._check_whole(name)
            self.again(tmp_path / f"{name}-again")
        assert self.found() == self.files, name
        self.leave()

    def _name(self, number: int) -> str:
        return f"{number}-{self.points[number - 1]}".replace(" ", "-")

    def _check_whole(self, name: str) -> None:
        left = {file: digest for file, digest in self.found().items() if file[-4:] != ".tmp"}
        assert left.items() <= self.files.items(), name


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    root = tmp_path_factory.mktemp("precompute")
    data, out = root / "data", root / "out"
    write_pictures(data, 2 * NUM_SHARDS - 1)
    (data / "class_0" / "bad.jpg").write_bytes(b"no picture")
    config = PrecomputeConfig(
        data=data, out=out, saliency="centre", saliency_size=8, shard_images=2
    )
    life = live(partial(run_precompute, config), root / "notes")
    assert life.code == 0, life.said
    assert verify_set(out, processes=1) == []
    files = contents(out)
    assert len([name for name in files if name.endswith(".tar")]) == NUM_SHARDS
    found, leave = partial(contents, out), partial(shutil.rmtree, out)
    clean = Clean(partial(run_precompute, config), life.points, files, found, leave)
    clean.leave()
    return clean


def test_a_few_points(clean: Clean, tmp_path: Path) -> None:
    """All of them are in the tests below."""
    numbers = range(1, len(clean.points) + 1)
    for number in some(numbers, "a few", 2):
        clean.kill_at(number, tmp_path)
    for number in some(numbers, "fails", 1):
        clean.fail_at(number, tmp_path / "fails")


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_killed_anywhere(clean: Clean, tmp_path: Path, part: int) -> None:
    for number in range(1 + part, len(clean.points) + 1, len(PARTS)):
        clean.kill_at(number, tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_a_write_fails(clean: Clean, tmp_path: Path, part: int) -> None:
    for number in range(1 + part, len(clean.points) + 1, len(PARTS)):
        clean.fail_at(number, tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_process_that_makes_a_shard_dies_or_fails(clean: Clean, tmp_path: Path) -> None:
    """Its death is survived: another process makes the shard."""
    work = partial(clean.work, partial(build_locally, num_processes=1))
    whole = live(work, tmp_path / "whole", in_children=True)
    assert whole.code == 0, whole.said
    assert set(whole.points) < set(clean.points)
    assert clean.found() == clean.files
    clean.leave()
    numbers = range(1, len(whole.points) + 1)
    for number in some(numbers, "children die", 5):
        life = live(work, tmp_path / f"die-{number}", number=number, in_children=True)
        assert life.code == 0, (number, life.said)
        assert len(life.points) > len(whole.points)
        assert clean.found() == clean.files, number
        clean.leave()
    for number in some(numbers, "children fail", 5):
        notes, how = tmp_path / f"fail-{number}", ERRORS[number % len(ERRORS)]
        if failed_clearly(live(work, notes, how, number, in_children=True)):
            clean.again(tmp_path / f"fail-{number}-again")
        assert clean.found() == clean.files, number
        clean.leave()


@pytest.fixture
def in_bucket(bucket: Bucket, tmp_path: Path) -> Clean:
    """Three shards, of which one is uploaded in parts."""
    data = tmp_path / "data"
    write_pictures(data, 5)
    pixels = np.random.default_rng(0).integers(0, 255, (1200, 1500, 3), dtype=np.uint8)
    assert cv2.imwrite(str(data / "class_0" / "large.png"), pixels)
    config = PrecomputeConfig(
        data=data, out=bucket.url("out"), saliency="centre", saliency_size=8, shard_images=2
    )

    def found() -> dict[str, str]:
        objects = bucket.contents("out").items()
        return {name: str(hash(data)) for name, data in objects if not name.endswith(".versions")}

    def leave() -> None:
        assert bucket.unfinished() == 0
        for name in bucket.contents("out"):
            bucket.client.delete_object(Bucket=bucket.name, Key=f"out/{name}")

    life = live(partial(run_precompute, config), tmp_path / "notes")
    assert life.code == 0, life.said
    assert len([one for one in life.points if one.startswith("part")]) >= 2
    clean = Clean(partial(run_precompute, config), life.points, found(), found, leave)
    clean.leave()
    return clean


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_uploads(in_bucket: Clean, tmp_path: Path) -> None:
    for number in range(1, len(in_bucket.points) + 1):
        in_bucket.kill_at(number, tmp_path)
        in_bucket.fail_at(number, tmp_path / "fails")
