"""A pretraining is killed, or a write of it fails, at every point once, and goes on.

Killed, and started again with as many ranks: the same weights to the last bit, exactly the same
samples in the same order, the same files. A write that fails is survived, or ends the run with one
clear line, and the same command goes on to the same end. `make test` has a few of the points.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from pipeline.core.faults import STEP, VARIABLE
from tests.faults.lives import (
    ERRORS,
    SIGKILL,
    failed_clearly,
    first_step,
    is_drawn,
    live,
    points_of,
    pretrain,
    pretrain_on_two,
    pretraining,
    samples_of,
    some,
    writes,
)
from tests.picture_folders import contents
from tests.pretrain_jobs import Job, command, record, write_sets
from tests.runs import numbers
from tests.shard_sets import write_shard_set
from training.core.checkpoint import CheckpointStore, load_state

PARTS = range(6)
"""A test has the points of one part: every sixth."""
NOT_COMPARED = ("tensorboard/", "metrics.jsonl", "state.pt")
"""Files with times; or compared by what they hold."""


@dataclass(frozen=True)
class Clean:
    """What an undisturbed pretraining came to, and leaves; `out` is the folder of all others."""

    root: Path
    points: list[str]
    samples: dict[int, list[int]]
    left: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.root / "run"


def what_is_left(out: Path) -> dict[str, Any]:
    """All that decides or describes a run, but for times: states, record, every other file."""
    store, files = CheckpointStore(out / "checkpoints"), contents(out)
    found: dict[str, Any] = {
        "folders": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_dir()),
        "files": {
            name: value
            for name, value in files.items()
            if not any(part in name for part in NOT_COMPARED)
        },
        "record": numbers(out),
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
    life = live(partial(pretrain, pretraining(root, root / "run"), seen), root / "notes")
    assert life.code == 0, life.said
    assert life.points.count(STEP) == 20
    samples = samples_of(seen)
    assert list(samples) == list(range(20))
    for epoch in range(5):
        ids = [one for step in range(4) for one in samples[4 * epoch + step]]
        assert sorted(ids) == list(range(64))
        assert ids != sorted(ids)
    clean = Clean(root, life.points, samples, what_is_left(root / "run"))
    shutil.rmtree(clean.out)
    return clean


@pytest.fixture(scope="module")
def recoveries(request: pytest.FixtureRequest) -> Iterator[list[float]]:
    """Seconds from the start of a process to its first new step; printed at the end."""
    found: list[float] = []
    yield found
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    if found:
        with capture.global_and_fixture_disabled():
            print(recovered("a process", found))


def recovered(what: str, seconds: list[float]) -> str:
    return (
        f"\ntime to recover, from the start of {what} to its first new step: median "
        f"{median(seconds):.2f} s, maximum {max(seconds):.2f} s of {len(seconds)}"
    )


def name_of(clean: Clean, number: int) -> str:
    return f"{number}-{clean.points[number - 1]}".replace(" ", "-")


def go_on(clean: Clean, tmp_path: Path, recoveries: list[float], name: str) -> None:
    """The same command again, and what must come of it."""
    again = tmp_path / f"{name}-again"
    started = time.monotonic()
    life = live(partial(pretrain, pretraining(clean.root, clean.out), again / "seen"), again)
    assert life.code == 0, (name, life.said)
    if (first := first_step(again / "seen")) is not None:
        recoveries.append(first - started)
    assert samples_of(tmp_path / name / "seen", again / "seen") == clean.samples, name
    assert_the_same(what_is_left(clean.out), clean.left)


def go_on_with_two(clean: Clean, tmp_path: Path, out: Path, name: str) -> None:
    """The same samples in the same places; losses as far as the order of sums lets them."""
    again = tmp_path / f"{name}-two"
    life = live(partial(pretrain_on_two, pretraining(clean.root, out), again / "seen"), again)
    assert life.code == 0, (name, life.said)
    assert samples_of(tmp_path / name / "seen", again / "seen") == clean.samples, name
    ours, theirs = (
        [entry for entry in entries if entry["kind"] == "train"]
        for entries in (numbers(out), clean.left["record"])
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one["samples_seen"] == other["samples_seen"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4), (name, one["step"])


def kill_at(
    clean: Clean, number: int, tmp_path: Path, recoveries: list[float], *, with_two: bool
) -> None:
    name = name_of(clean, number)
    work = partial(pretrain, pretraining(clean.root, clean.out), tmp_path / name / "seen")
    life = live(work, tmp_path / name, number=number)
    assert (life.code, life.points) == (SIGKILL, clean.points[:number]), (name, life.said)
    if with_two:
        copy = tmp_path / f"{name}-copy"
        if clean.out.exists():
            shutil.copytree(clean.out, copy)
        go_on_with_two(clean, tmp_path, copy, name)
    go_on(clean, tmp_path, recoveries, name)
    shutil.rmtree(clean.out)


def fail_at(clean: Clean, number: int, tmp_path: Path, recoveries: list[float]) -> None:
    name = name_of(clean, number)
    work = partial(pretrain, pretraining(clean.root, clean.out), tmp_path / name / "seen")
    life = live(work, tmp_path / name, ERRORS[number % len(ERRORS)], number)
    assert life.points[:number] == clean.points[:number], (name, life.said)
    if failed_clearly(life):
        go_on(clean, tmp_path, recoveries, name)
    assert_the_same(what_is_left(clean.out), clean.left)
    shutil.rmtree(clean.out)


def test_a_few_points(clean: Clean, tmp_path: Path) -> None:
    """All of them are in the tests below."""
    (number,) = some(range(1, len(clean.points) + 1), "a few", 1)
    kill_at(clean, number, tmp_path, [], with_two=True)
    (number,) = some(writes(clean.points), "fails", 1)
    fail_at(clean, number, tmp_path / "fails", [])


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_killed_anywhere(clean: Clean, tmp_path: Path, recoveries: list[float], part: int) -> None:
    for number in range(1 + part, len(clean.points) + 1, len(PARTS)):
        with_two = is_drawn(number, "ranks", 3)
        kill_at(clean, number, tmp_path, recoveries, with_two=with_two)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_a_write_fails(clean: Clean, tmp_path: Path, recoveries: list[float], part: int) -> None:
    for number in writes(clean.points)[part :: len(PARTS)]:
        fail_at(clean, number, tmp_path, recoveries)


def after_a_step(log: Path) -> list[str]:
    """The points behind the first step of a job that runs."""
    points = points_of(log) if log.exists() else []
    return points[points.index(STEP) :] if STEP in points else []


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_the_job_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its command line, with the variable: three of its points, and how soon it goes on."""
    write_sets(tmp_path)
    log, said = tmp_path / "points", tmp_path / "said.txt"
    monkeypatch.setenv(VARIABLE, f"kill:0:{log}")
    Job(command(tmp_path, tmp_path / "clean", "--local"), said).finish()
    found, seconds = points_of(log), []
    for number in some(range(1, len(found) + 1), "job", 3):
        out = tmp_path / str(number)
        monkeypatch.setenv(VARIABLE, f"kill:{number}:{tmp_path / f'points-{number}'}")
        Job(command(tmp_path, out, "--local"), said).finish(code=SIGKILL)
        again = tmp_path / f"points-after-{number}"
        monkeypatch.setenv(VARIABLE, f"kill:0:{again}")
        started = time.monotonic()
        job = Job(command(tmp_path, out, "--local"), said)
        while not job.ended and "append metrics.jsonl" not in after_a_step(again):
            time.sleep(0.02)
        if STEP in points_of(again):
            seconds.append(time.monotonic() - started)
        job.finish()
        assert record(out) == record(tmp_path / "clean"), found[number - 1]
    with capsys.disabled():
        print(recovered("a command", seconds))
