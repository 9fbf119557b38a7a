"""A pretraining is killed, or a write of it fails, at every point once, and goes on.

Killed, and started again with as many ranks: the same weights to the last bit, exactly the same
samples in the same order, the same files. A write that fails is survived, or ends the run with one
clear line, and the same command goes on to the same end. `make test` has a few of the points.
"""

import hashlib
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten_with_path

from pipeline.core.faults import STEP, VARIABLE
from tests.faults.lives import (
    SIGKILL,
    Life,
    Subject,
    hashed,
    live,
    points_of,
    pretrain,
    pretraining,
    seen_in,
    some,
)
from tests.picture_folders import contents
from tests.pretrain_jobs import Job, command, record, stream_command, write_sets
from tests.runs import numbers
from tests.shard_sets import write_shard_set
from training.core.checkpoint import CheckpointStore, load_state
from training.engine.anchor import ANCHOR_FILE
from training.stream.forgetting import FORGETTING_FILE, read_forgetting

PARTS = range(12)
"""A test has the points of one part: every twelfth."""
NOT_COMPARED = ("tensorboard/", "metrics.jsonl", "state.pt")
"""Files with times in them; or compared by what they hold."""


def what_is_left(out: Path, seen: Path) -> dict[str, Any]:
    """All that decides or describes a run, but for times: samples, states, record, other files."""
    store = CheckpointStore(out / "checkpoints")
    for old in store.steps()[:-2]:  # not removed because of the fault: the next save would do it
        shutil.rmtree(store.folder_of(old))
    states = [load_state(store.folder_of(step), torch.device("cpu")) for step in store.steps()]
    return {
        "samples": seen_in(seen)[0],
        "record": numbers(out),
        "files": {
            name: digest
            for name, digest in contents(out).items()
            if not any(part in name for part in NOT_COMPARED)
        },
        "folders": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_dir()),
        "states": [
            {str(place): bits(leaf) for place, leaf in tree_flatten_with_path(state)[0]}
            for state in states
        ],
    }


def bits(leaf: Any) -> object:  # noqa: ANN401
    """A leaf of a state: a tensor as the digest of its bytes."""
    if isinstance(leaf, torch.Tensor):
        return hashlib.sha256(leaf.contiguous().numpy().tobytes()).hexdigest(), leaf.shape
    return leaf


class Pretraining(Subject):
    """Always in the same folder, which the settings name."""

    def __init__(self, root: Path) -> None:
        self.root, self.out, self.seen = root, root / "run", root / "seen"
        super().__init__(self._train, lambda: what_is_left(self.out, self.seen), self.clear)

    def _train(self, how: str, number: int) -> Life:
        work = partial(pretrain, pretraining(self.root, self.out), self.seen)
        return live(work, self.root / "notes", how, number)

    def clear(self) -> None:
        shutil.rmtree(self.out)
        self.seen.unlink()

    def go_on_with_two(self) -> None:
        """In a copy: the same samples in the same places; losses up to the order of sums."""
        copy, seen = self.root / "copy", self.root / "seen-copy"
        for kept, other in ((self.out, copy), (self.seen, seen)):
            if kept.exists():
                (shutil.copytree if kept.is_dir() else shutil.copy)(kept, other)
        work = partial(pretrain, pretraining(self.root, copy), seen, ranks=2)
        life = live(work, self.root / "notes-of-two", "kill", 0)
        assert life.code == 0, life.said
        assert seen_in(seen)[0] == self.expected["samples"]
        for one, other in zip(numbers(copy), self.expected["record"], strict=True):
            assert one.get("samples_seen") == other.get("samples_seen")
            if one["kind"] == "train":
                assert one["loss"] == pytest.approx(other["loss"], rel=1e-3, abs=1e-4), one
        shutil.rmtree(copy)
        seen.unlink()
        Path(f"{seen}-store").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Pretraining:
    root = tmp_path_factory.mktemp("pretraining")
    write_shard_set(root / "train", num_images=64, shard_images=16)
    write_shard_set(root / "val", num_images=18, first_number=1000)
    subject = Pretraining(root)
    assert subject.points.count(STEP) == 20
    samples = subject.expected["samples"]
    assert list(samples) == list(range(20))
    for epoch in range(5):
        ids = [one for step in range(4) for one in samples[4 * epoch + step]]
        assert sorted(ids) == list(range(64)) != ids
    return subject


@pytest.fixture(scope="module")
def recoveries(request: pytest.FixtureRequest) -> Iterator[list[float]]:
    """Seconds from the start of a process to its first new step; printed at the end."""
    seconds: list[float] = []
    yield seconds
    capture: Any = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        if seconds:
            print(
                "\ntime to recover, from the start of the process (all is imported) to the first "
                f"new step: median {median(seconds):.2f} s, maximum {max(seconds):.2f} s of "
                f"{len(seconds)}",
                file=sys.stderr,  # what workers of xdist write to stdout is lost
            )


def test_a_few_points(subject: Pretraining) -> None:
    """All of them are in the tests below."""
    (number,) = some(subject.numbers, "a few", 1)
    subject.disturb(number, between=subject.go_on_with_two)
    subject.clear()
    subject.disturb_all(some(subject.writes, "fails", 1), fails=True)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_killed_anywhere(subject: Pretraining, recoveries: list[float], part: int) -> None:
    for number in subject.numbers[part :: len(PARTS)]:
        with_two = hashed(number, "ranks") % 3 == 0
        started = subject.disturb(
            number, between=subject.go_on_with_two if with_two else lambda: None
        )
        assert started is not None
        recoveries += [at - started for at in seen_in(subject.seen)[1] if at > started][:1]
        subject.clear()


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", PARTS)
def test_a_write_fails(subject: Pretraining, part: int) -> None:
    subject.disturb_all(subject.writes[part :: len(PARTS)], fails=True)


def job_that_dies(
    arguments: list[str], number: int, log: Path, monkeypatch: pytest.MonkeyPatch
) -> Job:
    """A job that is killed at a point of the log that it begins, or at none."""
    log.unlink(missing_ok=True)
    monkeypatch.setenv(VARIABLE, f"kill:{number}:{log}")
    return Job(arguments, log.with_name("said.txt"))


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_stream_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed inside either stage, between them, and before the table."""
    for number, name in enumerate("ab"):
        write_shard_set(tmp_path / name, num_images=37, first_number=1000 * number)
    log, clean = tmp_path / "points", tmp_path / "clean"

    def job(out: Path, number: int) -> Job:
        words = ["--local", "--epochs", "2", "--anchor.kind", "mas"]
        words = stream_command([tmp_path / "a", tmp_path / "b"], out, *words)
        return job_that_dies(words, number, log, monkeypatch)

    job(clean, 0).finish()
    points = list(enumerate(points_of(log), start=1))
    steps = [number for number, what in points if what == STEP]
    files = ("stream_figures.json", ANCHOR_FILE, FORGETTING_FILE)
    between = [next(n for n, what in points if what == f"rename {file}") for file in files]
    assert len(steps) == 2 * (37 // 16) + 2 * (37 // 13)
    assert steps[3] < between[0] < between[1] < steps[4] < steps[-1] < between[2]
    for number in (steps[2], *between, steps[-1]):
        out = tmp_path / str(number)
        job(out, number).finish(code=SIGKILL)
        job(out, 0).finish()
        for stage in ("stage-00", "stage-01"):
            assert record(out / stage) == record(clean / stage), (number, stage)
        assert read_forgetting(out).lines() == read_forgetting(clean).lines(), number


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_a_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the variable, at three points; how soon it trains again, with all that it imports."""
    write_sets(tmp_path)
    log, seconds = tmp_path / "points", list[float]()

    def job(out: str, number: int) -> Job:
        words = command(tmp_path, tmp_path / out, "--local")
        return job_that_dies(words, number, log, monkeypatch)

    job("clean", 0).finish()
    for number in some(range(1, len(points_of(log)) + 1), "command", 3):
        job(str(number), number).finish(code=SIGKILL)
        started, again = time.monotonic(), job(str(number), 0)
        while points_of(log).count(STEP) < 2 and not again.ended:
            time.sleep(0.02)
        seconds.append(time.monotonic() - started)  # until the second new step begins
        again.finish()
        assert record(tmp_path / str(number)) == record(tmp_path / "clean"), number
    with capsys.disabled():
        listed = ", ".join(f"{one:.1f} s" for one in sorted(seconds))
        print(f"\ncommands recovered in {listed}", file=sys.stderr)
