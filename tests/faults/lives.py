"""Work in processes of its own, each of which dies or fails at a chosen point, or at none.

The fork server forks them, with everything imported: a life costs what it does, and no start-up.
"""

import json
import multiprocessing
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard  # for the fork server: slow to import
from torch import distributed as dist

from jobs.cli import main
from pipeline.core import faults
from tests.runs import run, small_run
from training.config.pretrain import PretrainConfig
from training.config.settings import CheckpointConfig, KnnConfig, OptimConfig
from training.methods.interface import StepResult
from training.methods.moco.settings import MoCoConfig
from training.record.run_record import RunRecord
from training.views.inputs import HostBatch

Work = Callable[[], object]
SECONDS = 300
"""That a life may take."""
SIGKILL = -9
ERRORS = ("ENOSPC", "EACCES", "ECONNRESET")
"""In turns, over the points."""


@dataclass(frozen=True)
class Life:
    """How a process ended: its exit code, what it said, and the points that it came to."""

    code: int | None
    said: str
    points: list[str]


def live(
    work: Work, notes: Path, how: str = "kill", number: int = 0, *, in_children: bool = False
) -> Life:
    """Does work that can be pickled in a new process, which follows a plan of faults.

    `notes` is a new folder for what the life leaves beside its results. With `in_children` not the
    process itself follows the plan, but those that it starts.
    """
    notes.mkdir(parents=True)
    plan = f"{how}:{number}:{notes / 'points'}"
    process = multiprocessing.get_context("forkserver").Process(
        target=_live, args=(work, plan, notes / "said", in_children)
    )
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    return Life(process.exitcode, (notes / "said").read_text(), points_of(notes / "points"))


def points_of(log: Path) -> list[str]:
    """The points that a plan's log has."""
    return [line.strip() for line in log.read_text().splitlines()]


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


def is_drawn(number: int, salt: str, one_in: int) -> bool:
    """A hashed share of the points."""
    return zlib.crc32(f"{salt} {number}".encode()) % one_in == 0


def some(numbers: Sequence[int], salt: str, count: int) -> list[int]:
    """A few points, those with the smallest hashes."""
    return sorted(numbers, key=lambda number: zlib.crc32(f"{salt} {number}".encode()))[:count]


def writes(points: Sequence[str]) -> list[int]:
    """The numbers, from 1, of the points that are not steps."""
    return [number for number, name in enumerate(points, start=1) if name != faults.STEP]


def failed_clearly(life: Life) -> bool:
    """Whether a life that failed said why in one line; False where it went on to the end."""
    if life.code == 0:
        return False
    errors = [line for line in life.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, life.said
    assert "Traceback" not in life.said, life.said
    assert "cannot be" in errors[0], errors
    return True


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
        method=MoCoConfig(queue_size=64, batch_norm_group=4),
        optim=OptimConfig(lr=1e-5),
        knn=KnnConfig(val_shards=root / "val", every_epochs=3, k=5),
        checkpoint=CheckpointConfig(every_epochs=0, every_steps=6, keep=2),
        log_every_steps=1,
        loader_workers=0,
    )


def pretrain(config: PretrainConfig, seen: Path) -> None:
    """A pretraining that notes the samples of every step in the file ``seen``, and the time."""
    _note_samples(seen)
    assert run(config).finished


def pretrain_on_two(config: PretrainConfig, seen: Path) -> None:
    """The same on two ranks, in processes that are forked here."""
    _note_samples(seen)
    if (other := os.fork()) == 0:
        _rank(1, config, seen)
        os._exit(0)
    _rank(0, config, seen)
    assert os.waitpid(other, 0)[1] == 0


def _rank(rank: int, config: PretrainConfig, seen: Path) -> None:
    store = f"file://{seen.parent}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    run(config)
    dist.destroy_process_group()


def _note_samples(seen: Path) -> None:
    own = RunRecord.add

    def add(
        record: RunRecord,
        step: int,
        batch: HostBatch,
        result: StepResult,
        *more: Any,  # noqa: ANN401
    ) -> None:
        ids, place = batch.sample_ids_B.tolist(), record._positions.start
        with seen.open("a") as file:  # of one line each: ranks do not cut each other's
            file.write(json.dumps([step, place, ids, time.monotonic()]) + "\n")
        own(record, step, batch, result, *more)

    RunRecord.add = add  # type: ignore[method-assign]


def samples_of(*files: Path) -> dict[int, list[int]]:
    """The samples of every step in order; a step that was repeated had the same ones each time."""
    found: dict[int, dict[int, int]] = {}
    for step, first, ids, _ in _lines(*files):
        batch = found.setdefault(step, {})
        for place, sample in enumerate(ids, start=first):
            assert batch.setdefault(place, sample) == sample, (step, place)
    for batch in found.values():
        assert sorted(batch) == list(range(len(batch)))
    return {step: [found[step][n] for n in range(len(found[step]))] for step in sorted(found)}


def first_step(seen: Path) -> float | None:
    """When the first step of a life was done, by the monotonic clock."""
    return next((at for _, _, _, at in _lines(seen)), None)


def _lines(*files: Path) -> Iterator[tuple[int, int, list[int], float]]:
    for file in files:
        for line in file.read_text().splitlines() if file.exists() else ():
            step, place, ids, at = json.loads(line)
            yield step, place, ids, at
