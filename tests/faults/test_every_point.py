"""Every point of failure, each once: a process dies there or a write fails, and the work goes on.

Killed, and started again with as many ranks: the same weights to the last bit, exactly the same
samples in the same order, the same files. A write that fails is survived, or ends the work with one
clear line, and the same command ends with the same. `make test` has a few of the points.
"""

import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from pipeline.core.faults import STEP
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.precompute.verify import verify_set
from tests.faults.lives import (
    Life,
    first_step,
    live,
    pretrain,
    pretrain_on_two,
    pretraining,
    samples_of,
)
from tests.picture_folders import contents, write_pictures
from tests.runs import numbers
from tests.shard_sets import write_shard_set
from training.core.checkpoint import CheckpointStore, load_state

SIGKILL = -9
ERRORS = ("ENOSPC", "EACCES", "ECONNRESET")
"""In turns, over the points."""
PARTS = range(6)
"""Of the points: a test has the points of one part."""
faults = [pytest.mark.faults, pytest.mark.timeout(1800)]


def is_drawn(number: int, salt: str, one_in: int) -> bool:
    """A hashed share of the points."""
    return zlib.crc32(f"{salt} {number}".encode()) % one_in == 0


def some(points: Sequence[int], salt: str, count: int) -> list[int]:
    """A few points, by their hashes."""
    return sorted(points, key=lambda number: zlib.crc32(f"{salt} {number}".encode()))[:count]


def writes(points: Sequence[str]) -> list[int]:
    """The numbers, from 1, of the points that are not steps."""
    return [number for number, name in enumerate(points, start=1) if name != STEP]


def failed_clearly(life: Life) -> bool:
    """Whether a life that failed said why in one line; False where it went on to the end."""
    if life.code == 0:
        return False
    errors = [line for line in life.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, life.said
    assert "Traceback" not in life.said, life.said
    assert "cannot be written" in errors[0], errors
    return True


# Pretraining


@dataclass(frozen=True)
class Clean:
    """What an undisturbed pretraining came to, and leaves."""

    root: Path
    points: list[str]
    samples: dict[int, list[int]]
    left: dict[str, Any]

    @property
    def writes(self) -> list[int]:
        return writes(self.points)


def what_is_left(out: Path) -> dict[str, Any]:
    """All that decides or describes a run, but for times: states, record, exports, files."""
    store = CheckpointStore(out / "checkpoints")
    files = [path for path in out.rglob("*") if "tensorboard" not in path.parts]
    found: dict[str, Any] = {
        "files": sorted(str(path.relative_to(out)) for path in files),
        "record": numbers(out),
        "contents": {name: value for name, value in contents(out).items() if SAME in name},
    }
    for step in store.steps():
        state = load_state(store.folder_of(step), torch.device("cpu"))
        found[f"state {step}"] = dict(tree_flatten_with_path(state)[0])
    return found


def assert_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if not name.startswith("state"):
            assert ours[name] == value, name
            continue
        assert ours[name].keys() == value.keys()
        for leaf, expected in value.items():
            is_same = (
                torch.equal(ours[name][leaf], expected)
                if isinstance(expected, torch.Tensor)
                else ours[name][leaf] == expected
            )
            assert is_same, (name, leaf)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    root = tmp_path_factory.mktemp("pretraining")
    write_shard_set(root / "train", num_images=64, shard_images=16)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    seen = root / "seen"
    life = live(partial(pretrain, pretraining(root, root / "clean"), seen), root / "notes")
    assert life.code == 0, life.said
    assert life.points.count(STEP) == 20
    samples = samples_of(seen)
    assert list(samples) == list(range(20))
    for epoch in range(5):
        ids = [one for step in range(4) for one in samples[4 * epoch + step]]
        assert sorted(ids) == list(range(64))
        assert ids != sorted(ids)
    return Clean(root, life.points, samples, what_is_left(root / "clean"))


@pytest.fixture(scope="module")
def recoveries(request: pytest.FixtureRequest) -> Iterator[list[float]]:
    """Seconds from the start of a process to its first new step; printed at the end."""
    found: list[float] = []
    yield found
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    if found:
        with capture.global_and_fixture_disabled():
            print(
                f"\ntime to recover, a process's start to its first new step: median "
                f"{median(found):.2f} s, maximum {max(found):.2f} s of {len(found)}"
            )


def go_on(clean: Clean, tmp_path: Path, out: Path, recoveries: list[float], name: str) -> None:
    """The same command again, and what must come of it."""
    again = tmp_path / f"{name}-again"
    started = time.monotonic()
    life = live(partial(pretrain, pretraining(clean.root, out), again / "seen"), again)
    assert life.code == 0, (name, life.said)
    if (first := first_step(again / "seen")) is not None:
        recoveries.append(first[1] - started)
    assert samples_of(tmp_path / name / "seen", again / "seen") == clean.samples, name
    assert_the_same(what_is_left(out), clean.left)


def go_on_with_two(clean: Clean, tmp_path: Path, out: Path, name: str) -> None:
    """The same samples in the same places; losses as far as the order of sums lets them."""
    again = tmp_path / f"{name}-two"
    life = live(partial(pretrain_on_two, pretraining(clean.root, out), again / "seen"), again)
    assert life.code == 0, (name, life.said)
    assert samples_of(tmp_path / name / "seen", again / "seen") == clean.samples, name
    ours, theirs = (
        [entry for entry in record if entry["kind"] == "train"]
        for record in (numbers(out), clean.left["record"])
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["samples_seen"] == other["samples_seen"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4), (name, one["step"])


def kill_pretraining(
    clean: Clean, number: int, tmp_path: Path, recoveries: list[float], *, with_two: bool
) -> None:
    name = f"{number}-{clean.points[number - 1]}".replace(" ", "-")
    out, notes = tmp_path / f"{name}-out", tmp_path / name
    work = partial(pretrain, pretraining(clean.root, out), notes / "seen")
    life = live(work, notes, number=number)
    assert (life.code, life.points) == (SIGKILL, clean.points[:number]), (name, life.said)
    if with_two:
        with suppress(FileNotFoundError):  # killed before there was any
            shutil.copytree(out, tmp_path / f"{name}-out-two")
        go_on_with_two(clean, tmp_path, tmp_path / f"{name}-out-two", name)
    go_on(clean, tmp_path, out, recoveries, name)
    shutil.rmtree(out)


def fail_pretraining(
    clean: Clean, number: int, tmp_path: Path, recoveries: list[float]
) -> None:
    name = f"{number}-{clean.points[number - 1]}".replace(" ", "-")
    out, notes = tmp_path / f"{name}-out", tmp_path / name
    work = partial(pretrain, pretraining(clean.root, out), notes / "seen")
    life = live(work, notes, ERRORS[number % 3], number)
    if failed_clearly(life):
        go_on(clean, tmp_path, out, recoveries, name)
    assert_the_same(what_is_left(out), clean.left)
    shutil.rmtree(out)


class TestPretraining:
    def test_a_few_points(self, clean: Clean, tmp_path: Path) -> None:
        """The rest of them in the next tests."""
        numbers = range(1, len(clean.points) + 1)
        for place, number in enumerate(some(numbers, "a few", 2)):
            kill_pretraining(clean, number, tmp_path, [], with_two=place == 0)
        for number in some(clean.writes, "a few", 1):
            fail_pretraining(clean, number, tmp_path, [])

    @pytest.mark.faults
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("part", PARTS)
    def test_killed(
        self, clean: Clean, tmp_path: Path, recoveries: list[float], part: int
    ) -> None:
        for number in range(1 + part, len(clean.points) + 1, len(PARTS)):
            with_two = is_drawn(number, "ranks", 3)
            kill_pretraining(clean, number, tmp_path, recoveries, with_two=with_two)

    @pytest.mark.faults
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("part", PARTS)
    def test_a_write_fails(
        self, clean: Clean, tmp_path: Path, recoveries: list[float], part: int
    ) -> None:
        for number in clean.writes[part :: len(PARTS)]:
            fail_pretraining(clean, number, tmp_path, recoveries)
