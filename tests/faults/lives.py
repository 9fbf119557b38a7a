"""Work in processes of its own, each of which dies or fails at a chosen point, or at none.

The fork server forks them, with everything imported: a life costs what it does, and no start-up.
"""

import importlib
import json
import multiprocessing
import os
import shutil
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from jobs.cli import main
from pipeline.core import faults
from tests.runs import run, small_run
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.methods.moco.settings import MoCoConfig
from training.record.run_record import RunRecord
from training.views.inputs import HostBatch

for slow in ("pandas", "torch.utils.tensorboard"):  # which lives would import, each for itself
    importlib.import_module(slow)

Work = Callable[[], object]
SECONDS = 300
"""That a life may take."""
SIGKILL, KILL = -9, "kill"
ERRORS = ("ENOSPC", "EACCES", "ECONNRESET")


@dataclass(frozen=True)
class Life:
    """How a process ended: its exit code, what it said, and the points that it came to."""

    code: int | None
    said: str
    points: list[str]


def live(work: Work, notes: Path, how: str, number: int, *, in_children: bool = False) -> Life:
    """Does work that can be pickled in a new process, which follows a plan of faults.

    `notes` is a folder for what it says. With `in_children` those that it starts follow the plan.
    """
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    arguments = (work, f"{how}:{number}:{notes / 'points'}", notes / "said", in_children)
    process = multiprocessing.get_context("forkserver").Process(target=_live, args=arguments)
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Life(process.exitcode, (notes / "said").read_text(), points_of(notes / "points"))


def _live(work: Work, plan: str, said: Path, in_children: bool) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    torch.set_num_threads(1)
    if in_children:
        os.environ[faults.VARIABLE] = plan
    else:
        faults.switch(plan)

    def done() -> None:
        work()

    main(done, is_process=False)


def points_of(log: Path) -> list[str]:
    """The points that a plan's log has."""
    return [line.strip() for line in log.read_text().splitlines()] if log.exists() else []


class Subject:
    """Work that is disturbed, and must come to what an undisturbed life of it came to.

    `life` does it by a plan, `left` is what must come of it, and `clear` removes that.
    `survives`: another process goes on where one is killed.
    """

    def __init__(
        self,
        life: Callable[[str, int], Life],
        left: Callable[[], object],
        clear: Callable[[], None],
        *,
        survives: bool = False,
    ) -> None:
        self._life, self._left, self._clear, self._survives = life, left, clear, survives
        clean = life(KILL, 0)
        assert clean.code == 0, clean.said
        self.points = clean.points
        self.expected: Any = left()
        self.numbers = range(1, len(self.points) + 1)
        self.writes = [one for one in self.numbers if self.points[one - 1] != faults.STEP]
        clear()

    def disturb(
        self, number: int, *, fails: bool = False, between: Callable[[], None] = lambda: None
    ) -> float | None:
        """Kill a life or let it fail at a point, call `between`, and go on.

        Returns the time at which the second life began; None if there was none.
        """
        what = (number, self.points[number - 1])
        life = self._life(ERRORS[number % len(ERRORS)] if fails else KILL, number)
        assert life.points[:number] == self.points[:number], (what, life.said)
        if not fails:
            assert life.code == (0 if self._survives else SIGKILL), (what, life.said)
        started = None
        if failed_clearly(life) if fails else not self._survives:
            between()
            started = time.monotonic()
            again = self._life(KILL, 0)
            assert again.code == 0, (what, again.said)
        assert self._left() == self.expected, what
        return started

    def disturb_all(self, numbers: Sequence[int], *, fails: bool = False) -> None:
        """Disturb it at each of these points, from the beginning each time."""
        for number in numbers:
            self.disturb(number, fails=fails)
            self._clear()


def failed_clearly(life: Life) -> bool:
    """Whether a life that failed said why in one line; False where it went on to the end."""
    if life.code == 0:
        return False
    errors = [line for line in life.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, life.said
    assert "cannot be" in errors[0], errors
    assert "Traceback" not in life.said, life.said
    return True


def hashed(number: int, salt: str) -> int:
    """A hash of a point's number."""
    return zlib.crc32(f"{salt} {number}".encode())


def some(numbers: Sequence[int], salt: str, count: int) -> list[int]:
    """A few points, those with the smallest hashes."""
    return sorted(numbers, key=lambda number: hashed(number, salt))[:count]


def pretraining(root: Path, out: Path) -> PretrainConfig:
    """Twenty steps on the 64 images of ``root / "train"``, with checkpoints in mid-epoch.

    Groups of batch norm that two ranks do not cut, and small steps: in a network this young
    rounding errors double with every large one.
    """
    return small_run(
        root / "train",
        out,
        epochs=5,
        batch_size=16,
        precision="fp32",
        method=MoCoConfig(queue_size=64, batch_norm_group=8),
        optim=OptimConfig(lr=1e-5),
        knn=KnnConfig(val_shards=root / "val", every_epochs=3, k=5),
        checkpoint=CheckpointConfig(every_epochs=0, every_steps=6, keep=2),
        log_every_steps=1,
        loader_workers=0,
    )


def pretrain(config: PretrainConfig, seen: Path, ranks: int = 1) -> None:
    """A pretraining that notes the samples of every step, and the time, in the file ``seen``."""
    own = RunRecord.add

    def add(record: RunRecord, step: int, batch: HostBatch, *more: Any) -> None:  # noqa: ANN401
        ids, place = batch.sample_ids_B.tolist(), record._positions.start
        with seen.open("a") as file:  # a line at once: ranks do not cut each other's
            file.write(json.dumps([step, place, ids, time.monotonic()]) + "\n")
        own(record, step, batch, *more)

    RunRecord.add = add  # type: ignore[assignment, method-assign]
    other = os.fork() if ranks == 2 else -1
    if ranks == 2:
        store = f"file://{seen}-store"
        dist.init_process_group("gloo", init_method=store, rank=int(other == 0), world_size=2)
    assert run(config).finished
    if ranks == 2:
        dist.destroy_process_group()
    if other == 0:
        os._exit(0)


def seen_in(file: Path) -> tuple[dict[int, list[int]], list[float]]:
    """The samples of every step in order, the same each time where it was repeated; and times."""
    found: dict[int, dict[int, int]] = {}
    times: list[float] = []
    for line in file.read_text().splitlines():
        step, first, ids, at = json.loads(line)
        times.append(at)
        batch = found.setdefault(step, {})
        for place, sample in enumerate(ids, start=first):
            assert batch.setdefault(place, sample) == sample, (step, place)
    return {step: [batch[n] for n in range(len(batch))] for step, batch in found.items()}, times
