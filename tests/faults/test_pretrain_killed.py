"""Kill -9 in mid-epoch, start the same command again: the record of a run that was left alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.shard_sets import write_shard_set
from training.metrics import TIMINGS, read_metrics

pytestmark = pytest.mark.faults

ROOT = Path(__file__).resolve().parents[2]
STEPS_PER_EPOCH, EPOCHS = 8, 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root / "train", num_images=STEPS_PER_EPOCH * 16 + 5, shard_images=32)
    write_shard_set(root / "val", num_images=30, first_number=1000)
    return root


def command(shards: Path, out: Path, *options: str) -> list[str]:
    settings = {
        "shards": shards / "train",
        "out": out,
        "epochs": EPOCHS,
        "batch-size": 16,
        "views.size": 32,
        "views.grid": 4,
        "moco.queue-size": 64,
        "moco.batch-norm-group": 8,
        "knn.val-shards": shards / "val",
        "knn.every-epochs": 2,
        "knn.k": 5,
        "log-every-steps": 1,
        "checkpoint.every-steps": 5,
        "precision": "fp32",
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return [sys.executable, "jobs/pretrain.py", *flags, *options]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(arguments: list[str]) -> str:
    process = start(arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while max((float(e["step"]) for e in read_metrics(out)), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def numbers(out: Path) -> list[dict[str, float | str]]:
    return [{k: v for k, v in e.items() if k not in TIMINGS} for e in read_metrics(out)]


def kill_driver(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_everything(process: subprocess.Popen[str]) -> None:
    """As when the machine loses power: the driver and every process that it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    family = psutil.Process(process.pid).children(recursive=True)
    workers = [p for p in family if "RayTrainWorker" in " ".join(p.cmdline())]
    assert workers
    workers[0].kill()


def test_one_worker_ends_with_the_same_record_to_the_last_bit(shards: Path, tmp_path: Path) -> None:
    finish(command(shards, tmp_path / "alone", "--local"))
    for step in (3, 13, 27):  # before the first checkpoint, and in the middle of epochs
        out = tmp_path / f"killed-at-{step}"
        process = start(command(shards, out, "--local"))
        wait_for_step(out, step, process)
        process.kill()
        process.communicate()
        finish(command(shards, out, "--local"))
        assert numbers(out) == numbers(tmp_path / "alone")


def test_one_ray_worker_ends_with_the_same_record_to_the_last_bit(
    shards: Path, tmp_path: Path
) -> None:
    arguments = ["--num-workers", "1"]
    finish(command(shards, tmp_path / "alone", *arguments))
    process = start(command(shards, tmp_path / "killed", *arguments))
    wait_for_step(tmp_path / "killed", 13, process)
    kill_everything(process)
    process.communicate()
    finish(command(shards, tmp_path / "killed", *arguments))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "alone")


@pytest.mark.parametrize("kill", [kill_driver, kill_a_worker])
def test_two_ray_workers_end_with_the_same_record(
    shards: Path, tmp_path: Path, kill: Callable[[subprocess.Popen[str]], None]
) -> None:
    arguments = ["--num-workers", "2"]
    finish(command(shards, tmp_path / "alone", *arguments))
    process = start(command(shards, tmp_path / "killed", *arguments))
    wait_for_step(tmp_path / "killed", 13, process)
    kill(process)
    output = process.communicate(timeout=600)[0]
    if kill is kill_a_worker:  # the run goes on by itself
        assert process.returncode == 0, output
        assert "resuming after step" in output
    else:
        finish(command(shards, tmp_path / "killed", *arguments))
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "alone")


@pytest.mark.parametrize("arguments", [["--local"], ["--num-workers", "2"]])
def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(
    shards: Path, tmp_path: Path, arguments: list[str]
) -> None:
    out = tmp_path / "run"
    process = start(command(shards, out, *arguments, "--checkpoint.every-steps", "0"))
    wait_for_step(out, 11, process)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "the same command goes on from there" in output
    stopped_at = max(int(p.name.removeprefix("step-")) for p in (out / "checkpoints").iterdir())
    assert 11 <= stopped_at < EPOCHS * STEPS_PER_EPOCH
    assert f"resuming after step {stopped_at} " in finish(command(shards, out, *arguments))
    assert "already finished" in finish(command(shards, out, *arguments))
