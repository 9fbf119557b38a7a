"""Kill -9 in the middle of a sweep: what has ended stays, the rest goes on as if undisturbed."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.pretrain_jobs import Job, record, run_job, write_sets
from training.record.relay import PROGRESS_FILE
from training.sweep.ledger import LEDGER_FILE, Ledger
from training.sweep.results import RESULTS_FILE

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
        "cpus-per-worker": 1,
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return [sys.executable, "jobs/sweep.py", *flags, *options]


def wait_for(true: Callable[[], bool], job: Job, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert not job.ended, job.said()
        assert time.monotonic() < deadline, job.said()
        time.sleep(0.05)


def ended(out: Path) -> set[int]:
    return {trial.number for trial in Ledger(out).trials.values() if trial.ended}


def starts(out: Path) -> list[int]:
    events = [json.loads(line) for line in (out / LEDGER_FILE).read_text().splitlines()]
    return [event["trial"] for event in events if event["event"] == "start"]


def test_the_driver_is_killed_and_the_same_command_goes_on(shards: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    grid = ["--grid", "masks.query_ratio=0.05:0.25,0.4", "--grid", "masks.negative_ratio=0.3,0.7"]
    arguments = command(shards, out, *grid, "--scheduler", "none")
    job = Job(arguments, said)

    def in_the_middle() -> bool:
        trials = Ledger(out).trials.values()
        return any(t.ended for t in trials) and any(not t.ended and t.epochs >= 1 for t in trials)

    wait_for(in_the_middle, job)
    job.kill()
    finished = ended(out)
    broken_off = Ledger(out).trials.keys() - finished
    before = {n: (out / Ledger(out).trials[n].run / "metrics.jsonl").read_bytes() for n in finished}
    started = starts(out)

    text = run_job(arguments, said)
    trials = Ledger(out).trials
    assert {number: trial.status for number, trial in trials.items()} == dict.fromkeys(
        range(4), "finished"
    )
    assert not set(starts(out)[len(started) :]) & finished
    for number, metrics in before.items():
        assert (out / trials[number].run / "metrics.jsonl").read_bytes() == metrics
    for number in broken_off:
        assert f"trial {number} goes on after" in text
    assert {trial.epochs for trial in trials.values()} == {EPOCHS}
    table = pq.read_table(out / RESULTS_FILE)
    assert table["status"].to_pylist() == ["finished"] * 4

    number = max(broken_off, key=lambda n: starts(out).count(n))
    run = out / trials[number].run
    alone = tmp_path / "alone"
    config = ["--config", str(run / "config.json"), "--out", str(alone), "--local"]
    run_job([sys.executable, "jobs/pretrain.py", *config], tmp_path / "alone.txt")
    assert record(run) == record(alone)  # to the last bit

    assert "0 of 4 trials left" in run_job(arguments, said)
    assert starts(out).count(number) == 2


def test_ctrl_c_stops_every_trial_with_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    grid = ["--grid", "seed=0,1,2", "--scheduler", "none", "--checkpoint.every-epochs", "0"]
    arguments = command(shards, out, *grid)
    job = Job(arguments, said)
    wait_for(lambda: len(Ledger(out).trials) == 2 and Ledger(out).trials[1].epochs >= 1, job)
    job.press_ctrl_c()
    assert "the same command goes on from there" in job.finish(120)
    stopped = Ledger(out).trials
    left = {n: newest_step(out / trial.run) for n, trial in stopped.items() if not trial.ended}
    assert left
    assert all(step > 0 for step in left.values())
    text = run_job(arguments, said)
    assert {t.status for t in Ledger(out).trials.values()} == {"finished"}, text
    for number, step in left.items():
        progress = (out / stopped[number].run / PROGRESS_FILE).read_text()
        assert f"resuming after step {step} " in progress


def newest_step(run: Path) -> int:
    steps = (run / "checkpoints").glob("step-*")
    return max((int(p.name.removeprefix("step-")) for p in steps), default=0)


def test_a_trial_whose_process_dies_fails_alone_and_frees_its_cores(
    shards: Path, tmp_path: Path
) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    arguments = command(shards, out, "--grid", "seed=0,1,2", "--scheduler", "none")
    job = Job(arguments, said)
    wait_for(lambda: any(t.epochs >= 1 for t in Ledger(out).trials.values()), job)
    victims = [process for process in job.family() if is_trial(process)]
    assert len(victims) == 2, [process.cmdline() for process in job.family()]
    victims[0].kill()
    text = job.finish()
    statuses = sorted(trial.status for trial in Ledger(out).trials.values())
    assert statuses == ["failed", "finished", "finished"], text
    assert "its process died" in text
    again = run_job([*arguments, "--retry-failed"], said)
    assert "1 of 3 trials left" in again
    assert {t.status for t in Ledger(out).trials.values()} == {"finished"}


def test_a_trial_that_cannot_go_on_fails_alone_and_says_why(shards: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", tmp_path / "said.txt"
    steep = ["--grid", "optim.lr=1e30,0.01", "--optim.warmup-epochs", "0"]
    text = run_job(command(shards, out, *steep), said)
    failed, finished = (Ledger(out).trials[number] for number in range(2))
    assert (failed.status, finished.status) == ("failed", "finished"), text
    assert failed.message is not None
    assert "no longer finite" in failed.message
    rows = pq.read_table(out / RESULTS_FILE).to_pylist()
    assert [row["message"] for row in rows] == [failed.message, None]


def is_trial(process: psutil.Process) -> bool:
    """Whether Tune runs a trial in this process."""
    try:
        return "ImplicitFunc" in " ".join(process.cmdline())
    except psutil.Error:
        return False
