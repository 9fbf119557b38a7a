"""Work in processes of its own, each of which dies or fails at a chosen point, or at none.

The fork server forks them, with everything imported: a life costs what it does, and no start-up.
This module imports no pytest, and Ray only where a sweep is run.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
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
from training.methods.interface import StepResult
from training.methods.moco.settings import MoCoConfig
from training.record.run_record import RunRecord
from training.views.inputs import HostBatch

Work = Callable[[], object]
SECONDS = 300
"""That a life may take."""


@dataclass(frozen=True)
class Life:
    """How a process ended: its exit code, what it said, and the points that it came to."""

    code: int | None
    said: str
    points: list[str]


def live(work: Work, notes: Path, how: str = "kill", number: int = 0) -> Life:
    """Does work that can be pickled in a new process, which follows a plan of faults.

    `notes` is a new folder for what the life leaves beside its results.
    """
    notes.mkdir(parents=True)
    plan = f"{how}:{number}:{notes / 'points'}"
    process = multiprocessing.get_context("forkserver").Process(
        target=_live, args=(work, plan, notes / "said")
    )
    process.start()
    process.join(SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
    points = [line.strip() for line in (notes / "points").read_text().splitlines()]
    return Life(process.exitcode, (notes / "said").read_text(), points)


def _live(work: Work, plan: str, said: Path) -> None:
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    torch.set_num_threads(1)
    faults.switch(plan)

    def done() -> None:
        work()

    main(done, is_process=False)


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
        record: RunRecord, step: int, batch: HostBatch, result: StepResult, *more: Any  # noqa: ANN401
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


def first_step(seen: Path) -> tuple[int, float] | None:
    """The first step of a life, and when it was done, by the monotonic clock."""
    return next(((step, at) for step, _, _, at in _lines(seen)), None)


def _lines(*files: Path) -> Iterator[tuple[int, int, list[int], float]]:
    for file in files:
        for line in file.read_text().splitlines() if file.exists() else ():
            step, place, ids, at = json.loads(line)
            yield step, place, ids, at
