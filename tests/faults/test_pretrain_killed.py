"""Kill -9 at random moments, on Ray: every run ends with the record of one that was left alone.

Each line of the record has the loss of its step and the digest of all samples up to it. Without Ray
a run is killed at every point (`test_pretrain_points.py`).
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.core.errors import Stopped
from tests.faults.nodes import Nodes, running
from tests.pretrain_jobs import (
    EPOCHS,
    STEPS,
    STEPS_PER_EPOCH,
    Job,
    command,
    is_worker,
    record,
    run_job,
    samples,
    wait_for_step,
    write_sets,
)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

SEED = int(os.environ.get("SALMASK_FAULT_SEED", "0"))
"""Decides the moments; printed with each."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_sets(root)
    return root


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process that nobody disturbed."""
    out = tmp_path_factory.mktemp("alone") / "run"
    run_job(command(shards, out, "--local"), out.parent / "said.txt")
    assert [step for step, _ in samples(out)] == list(range(1, STEPS + 1))
    return out


def moments(name: str, count: int) -> Iterator[tuple[int, float]]:
    """Rising random steps after which to kill, and seconds to wait then."""
    rng = random.Random(f"{SEED} {name}")
    for step in sorted(rng.sample(range(0, STEPS - 8), count)):
        delay = rng.uniform(0, 0.3)
        print(f"{name}, seed {SEED}: {delay:.2f} s after step {step}", flush=True)
        yield step, delay


def await_moment(out: Path, job: Job, moment: tuple[int, float]) -> None:
    wait_for_step(out, moment[0], job)
    time.sleep(moment[1])
    assert not job.ended, job.said()


def await_workers(job: Job, family: Callable[[], list[psutil.Process]]) -> list[psutil.Process]:
    """The processes that train, of a growing family."""
    deadline = time.monotonic() + 120
    while not (found := [process for process in family() if is_worker(process)]):
        assert not job.ended, job.said()
        assert time.monotonic() < deadline, job.said()
        time.sleep(0.1)
    return found


def test_one_worker_of_ray_is_killed_four_times_and_all_twice(
    shards: Path, alone: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    arguments = command(shards, out, "--ray", "--num-workers", "1", "--max-failures", "4")
    kills = moments("worker, then everything", 6)
    for _ in range(2):
        job = Job(arguments, said)
        for _ in range(2):
            moment = next(kills)
            wait_for_step(out, moment[0], job)
            worker = await_workers(job, job.family)[0]
            time.sleep(moment[1])
            worker.kill()
            worker.wait()
        await_moment(out, job, next(kills))
        job.kill_all()
    run_job(arguments, said)
    assert (
        "training is started again after failure 1 (of at most 4), on 1 workers" in said.read_text()
    )
    assert record(out) == record(alone)  # to the last bit


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running(4) as made:
        yield made


def test_workers_nodes_and_the_driver_on_a_cluster_are_killed_seven_times(
    shards: Path, alone: Path, tmp_path: Path, nodes: Nodes
) -> None:
    """With nodes to spare, so that two ranks train from the first step to the last."""
    nodes.bring_to(4)
    address = nodes.cluster.address
    undisturbed = command(shards, tmp_path / "undisturbed", "--num-workers", "2")
    run_job(undisturbed, tmp_path / "undisturbed.txt", address=address)
    out, said = tmp_path / "run", tmp_path / "said.txt"
    arguments = command(shards, out, "--num-workers", "2", "--max-failures", "7")
    job = Job(arguments, said, address=address)
    rng = random.Random(SEED)
    kinds = rng.sample(["worker"] * 4 + ["node"] * 2 + ["driver"], 7)
    for kind, moment in zip(kinds, moments(" ".join(kinds), 7), strict=True):
        wait_for_step(out, moment[0], job)
        workers = await_workers(job, nodes.family)
        time.sleep(moment[1])
        if kind == "worker":
            rng.choice(workers).kill()
        elif kind == "node":
            nodes.kill_one_that_trains()
        else:
            job.kill()
            job = Job(arguments, said, address=address)
    job.finish()
    assert "(of at most 7), on 2 workers" in said.read_text()
    assert "on 1 workers" not in said.read_text()
    assert samples(out) == samples(alone)
    assert record(out) == record(tmp_path / "undisturbed")


def test_a_node_that_is_lost_for_good_leaves_one_worker_to_finish(
    shards: Path, alone: Path, tmp_path: Path, nodes: Nodes
) -> None:
    """Losses agree as far as rounding lets them, for a young network's errors grow with every
    large step."""
    small_steps = ("--optim.lr", "1e-5")
    run_job(command(shards, tmp_path / "alone", "--local", *small_steps), tmp_path / "alone.txt")
    nodes.bring_to(2)
    out, said = tmp_path / "run", tmp_path / "said.txt"
    arguments = command(shards, out, "--num-workers", "2", *small_steps)
    job = Job(arguments, said, address=nodes.cluster.address)
    (moment,) = moments("node", 1)
    await_moment(out, job, moment)
    await_workers(job, nodes.family)
    nodes.kill_one_that_trains()
    assert "on 1 workers" in job.finish()
    assert samples(out) == samples(alone)
    for ours, theirs in zip(record(out), record(tmp_path / "alone"), strict=True):
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.mark.parametrize("ask", [Job.terminate, Job.press_ctrl_c])
@pytest.mark.parametrize("options", [["--local", "--loader-workers", "1"], ["--num-workers", "2"]])
def test_a_run_asked_to_stop_writes_a_checkpoint_and_the_same_command_goes_on(
    shards: Path, tmp_path: Path, options: list[str], ask: Callable[[Job], None]
) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    job = Job(command(shards, out, *options, "--checkpoint.every-steps", "0"), said)
    wait_for_step(out, 11, job)
    ask(job)
    assert "the same command goes on from there" in job.finish(120, code=Stopped.exit_code)
    stopped_at = max(int(p.name.removeprefix("step-")) for p in (out / "checkpoints").iterdir())
    assert 11 <= stopped_at < EPOCHS * STEPS_PER_EPOCH
    arguments = command(shards, out, *options)
    assert f"resuming after step {stopped_at} " in run_job(arguments, said)
    assert "already finished" in run_job(arguments, said)
