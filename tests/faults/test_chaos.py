"""Eight nodes, of which one loses power every minute: the same bytes, the same samples.

With `SALMASK_CHAOS_MINUTES=15` for 15 minutes each, and a sweep of 200 trials whose driver is
killed after every 20 of them.
"""

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.faults.nodes import Nodes, running
from tests.faults.test_sweep_killed import command as sweep_command
from tests.faults.test_sweep_killed import run_of, trials_when
from tests.picture_folders import contents, write_pictures
from tests.pretrain_jobs import Job, command, record, run_job, samples, write_sets
from training.sweep.results import Trial
from training.sweep.tune import read_trials

MINUTES = float(os.environ.get("SALMASK_CHAOS_MINUTES", "2"))
MOST = 1200 + 240 * MINUTES
"""Seconds that a run may take."""
pytestmark = [pytest.mark.faults, pytest.mark.timeout(2 * MOST)]

EVERY_SECONDS = 60.0
NUM_NODES, NUM_TRIALS, KILL_EVERY = 8, round(200 / 15 * MINUTES), 20
EPOCHS_A_MINUTE = 45
"""What two cores train in a minute, while a node is lost."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with running(NUM_NODES) as made:
        yield made


@contextmanager
def losing_power(nodes: Nodes, name: str) -> Iterator[list[float]]:
    """While the block runs, and for `MINUTES` at most, a node is killed every minute."""
    killed: list[float] = []
    over, started = threading.Event(), time.monotonic()

    def kill() -> None:
        draw = random.Random(name)
        while not over.wait(EVERY_SECONDS) and time.monotonic() < started + 60 * MINUTES:
            nodes.kill_any(draw)
            killed.append(time.monotonic() - started)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()
        seconds = time.monotonic() - started
        print(f"{name}: {len(killed)} nodes lost, {seconds:.0f} s in all", flush=True)


def precompute(data: Path, out: Path) -> list[str]:
    options = ["--ray", "--shard-images", "50"]
    return [sys.executable, "jobs/precompute.py", str(data), str(out), *options]


def test_precomputes_end_with_the_same_bytes(nodes: Nodes, tmp_path: Path) -> None:
    data, wanted, address = tmp_path / "pictures", tmp_path / "wanted", nodes.cluster.address
    write_pictures(data, 2000)
    run_job(precompute(data, wanted), tmp_path / "wanted.txt", address=address)
    end, num_runs = time.monotonic() + 60 * MINUTES, 0
    with losing_power(nodes, "precompute") as killed:
        while time.monotonic() < end:
            out = tmp_path / f"out-{num_runs}"
            run_job(precompute(data, out), tmp_path / "said.txt", address=address)
            assert contents(out) == contents(wanted)
            shutil.rmtree(out)
            num_runs += 1
    print(f"{num_runs} runs")
    assert killed


def test_a_pretraining_on_two_nodes_sees_the_same_samples(nodes: Nodes, tmp_path: Path) -> None:
    write_sets(tmp_path)
    options = ["--num-workers", "2", "--epochs", str(max(1, round(EPOCHS_A_MINUTE * MINUTES)))]
    options += ["--knn.every-epochs", "25", "--checkpoint.every-steps", "20"]
    said, address = tmp_path / "said.txt", nodes.cluster.address
    Job(command(tmp_path, tmp_path / "alone", *options), said, address=address).finish(MOST)
    options += ["--max-failures", "1000"]
    with losing_power(nodes, "pretraining") as killed:
        Job(command(tmp_path, tmp_path / "run", *options), said, address=address).finish(MOST)
    assert killed
    assert samples(tmp_path / "run") == samples(tmp_path / "alone")
    assert record(tmp_path / "run") == record(tmp_path / "alone")  # to the last bit


def have_ended(count: int, trials: list[Trial]) -> bool:
    return sum(trial.ended for trial in trials) >= count


def test_a_sweep_whose_driver_is_killed_again_and_again(tmp_path: Path) -> None:
    write_sets(tmp_path)
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    seeds = ",".join(map(str, range(NUM_TRIALS)))
    # 200 trials of a ResNet-18 would leave 60 GB of checkpoints.
    small = "--encoder.architecture mobilenet_v3_small --encoder.stem standard --checkpoint.keep 1"
    grid = ["--grid", f"seed={seeds}", "--scheduler", "none"]
    arguments = sweep_command(tmp_path, out, *grid, *small.split())
    before: dict[int, Trial] = {}
    for ended in range(KILL_EVERY, NUM_TRIALS, KILL_EVERY):
        job = Job(arguments, said)
        trials_when(partial(have_ended, ended), out, job)
        job.kill_all()
        trials = read_trials(out)
        assert before.items() <= {t.number: t for t in trials if t.ended}.items()
        before = {t.number: t for t in trials if t.ended}
    run_job(arguments, said)
    trials = read_trials(out)
    assert before.items() <= {t.number: t for t in trials}.items()
    assert [(t.number, t.status) for t in trials] == [(n, "finished") for n in range(NUM_TRIALS)]
    for trial in trials[:: NUM_TRIALS // 3]:
        run, alone = run_of(out, trial), tmp_path / f"alone-{trial.number}"
        config = ["--config", str(run / "config.json"), "--out", str(alone), "--local"]
        run_job([sys.executable, "jobs/pretrain.py", *config], tmp_path / "alone.txt")
        assert record(run) == record(alone)  # to the last bit
