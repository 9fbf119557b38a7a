"""A sweep is interrupted, its trials die or fail: what has ended stays, and the rest goes on."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import Stopped
from tests.pretrain_jobs import Job, is_trial, run_job, write_sets
from training.record.relay import PROGRESS_FILE
from training.sweep.results import RESULTS_FILE, Trial
from training.sweep.tune import read_trials

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]

EPOCHS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_sets(root)
    return root


def command(shards: Path, out: Path, *options: str) -> list[str]:
    settings = {
        "recipe": "debug",
        "shards": shards / "train",
        "knn.val-shards": shards / "val",
        "out": out,
        "epochs": EPOCHS,
        "knn.k": 5,
        "concurrent": 2,
        "cpus-per-worker": max(1, (os.cpu_count() or 2) // 2),  # two trials hold all cores
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return [sys.executable, "jobs/sweep.py", *flags, *options]


def trials_when(true: Callable[[list[Trial]], bool], out: Path, job: Job) -> list[Trial]:
    """The trials, once something is true of them."""
    deadline = time.monotonic() + 600
    while not true(trials := read_trials(out)):
        assert not job.ended, job.said()
        assert time.monotonic() < deadline, job.said()
        time.sleep(0.1)
    return trials


def run_of(out: Path, trial: Trial) -> Path:
    return out / "trials" / f"{trial.number:04d}"


def test_ctrl_c_stops_every_trial_with_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    grid = ["--grid", "seed=0,1,2", "--scheduler", "none", "--checkpoint.every-epochs", "0"]
    arguments = command(shards, out, *grid)
    job = Job(arguments, said)
    trials_when(lambda trials: len(trials) == 2 and trials[1].epochs >= 1, out, job)
    job.press_ctrl_c()
    assert "the same command goes on from there" in job.finish(120, code=Stopped.exit_code)
    left = [trial for trial in read_trials(out) if not trial.ended]
    steps = {trial.number: newest_step(run_of(out, trial)) for trial in left}
    assert left
    assert all(step > 0 for step in steps.values())
    text = run_job(arguments, said)
    assert {t.status for t in read_trials(out)} == {"finished"}, text
    for trial in left:
        progress = (run_of(out, trial) / PROGRESS_FILE).read_text()
        assert f"resuming after step {steps[trial.number]} " in progress


def newest_step(run: Path) -> int:
    steps = (run / "checkpoints").glob("step-*")
    return max((int(p.name.removeprefix("step-")) for p in steps), default=0)


def test_trials_whose_processes_die_fail_alone_and_free_their_cores(
    shards: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    arguments = command(shards, out, "--grid", "seed=0,1,2", "--scheduler", "none")
    job = Job(arguments, said)
    trials_when(lambda trials: [trial.epochs >= 1 for trial in trials] == [True] * 2, out, job)
    victims = [process for process in job.family() if is_trial(process)]
    assert len(victims) == 2, [process.cmdline() for process in job.family()]
    for victim in victims:
        victim.kill()
    text = job.finish()
    assert [trial.status for trial in read_trials(out)] == ["failed", "failed", "finished"], text
    assert "its process died" in text
    again = run_job([*arguments, "--retry-failed"], said)
    assert "2 of 3 trials left" in again
    assert {trial.status for trial in read_trials(out)} == {"finished"}


def test_a_trial_that_cannot_go_on_fails_alone_and_says_why(shards: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    steep = ["--grid", "optim.lr=1e30,0.01", "--optim.warmup-epochs", "0"]
    text = run_job(command(shards, out, *steep), said)
    failed, finished = read_trials(out)
    assert (failed.status, finished.status) == ("failed", "finished"), text
    assert failed.message is not None
    assert "no longer finite" in failed.message
    rows = pq.read_table(out / RESULTS_FILE).to_pylist()
    assert [row["message"] for row in rows] == [failed.message, None]
