"""Pretraining jobs of seconds, started as a person starts them, to be killed and started again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.shard_sets import write_shard_set
from tests.signals import ctrl_c_is_heard
from training.record.metrics import TIMINGS, read_metrics

ROOT = Path(__file__).resolve().parents[1]
STEPS_PER_EPOCH, EPOCHS = 8, 4
STEPS = STEPS_PER_EPOCH * EPOCHS
WORKER = "RayTrainWorker"
"""In the name of the process that Ray Train trains in."""


def write_sets(root: Path, steps_per_epoch: int = STEPS_PER_EPOCH) -> None:
    """Shards to train on, of which an epoch leaves five images out, and labelled ones."""
    write_shard_set(root / "train", num_images=steps_per_epoch * 16 + 5, shard_images=32)
    write_shard_set(root / "val", num_images=30, first_number=1000)


def command(shards: Path, out: Path, *options: str) -> list[str]:
    """The job's command line: a line of the record for every step."""
    settings = {
        "shards": shards / "train",
        "out": out,
        "epochs": EPOCHS,
        "batch-size": 16,
        "encoder.architecture": "mobilenet_v3_small",
        "encoder.stem": "standard",
        "views.size": 32,
        "views.grid": 4,
        "method": "moco_v2",
        "method.queue-size": 64,
        "method.batch-norm-group": 8,
        "knn.val-shards": shards / "val",
        "knn.every-epochs": 2,
        "knn.k": 5,
        "log-every-steps": 1,
        "checkpoint.every-steps": 5,
        "precision": "fp32",
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    return [sys.executable, "jobs/pretrain.py", *flags, "--encoder.max-pool", *options]


def stream_command(stages: Sequence[Path], out: Path, *options: str) -> list[str]:
    """The command line of a stream of such runs, without kNN checks."""
    python, _, *words = command(Path(), out, *options)
    for name in ("--shards", "--knn.val-shards"):
        place = words.index(name)
        del words[place : place + 2]
    return [python, "jobs/stream.py", *words, "--stages", *map(str, stages)]


class Job:
    """A job in a process of its own.

    Args:
        arguments: command line.
        output: file that takes what it says, behind what stands there.
        address: of the Ray to work on; None: the job starts its own, where it needs one.
    """

    def __init__(self, arguments: list[str], output: Path, *, address: str | None = None) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        if address is not None:
            environment["RAY_ADDRESS"] = address
        self.output = output
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("a") as file, ctrl_c_is_heard():
            self.process = subprocess.Popen(
                arguments,
                cwd=ROOT,
                env=environment | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.process.poll() is not None

    def said(self) -> str:
        """All that was said so far, by this job and those before it."""
        return self.output.read_text()

    def finish(self, seconds: float = 600, *, code: int = 0) -> str:
        """Waits for the end, by default a good one; returns what was said."""
        assert self.process.wait(timeout=seconds) == code, self.said()
        return self.said()

    def family(self) -> list[psutil.Process]:
        """The job's process and all that it started."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def terminate(self) -> None:
        """As `ray job stop`, or a scheduler that wants its machine back."""
        self.process.terminate()

    def press_ctrl_c(self) -> None:
        """As in its terminal: all that the job started there hears it too."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kills the job's own process, as if out of memory."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """As when the machine loses power: the job and every process that it started."""
        for member in self.family():
            member.kill()
        self.process.wait()


def run_job(arguments: list[str], output: Path, *, address: str | None = None) -> str:
    """Runs a job to its end; returns what it said."""
    return Job(arguments, output, address=address).finish()


def wait_for_step(out: Path, step: int, job: Job, seconds: float = 300) -> None:
    """Waits until the record of a run in ``out`` has reached a step."""
    deadline = time.monotonic() + seconds
    while max((float(e["step"]) for e in read_metrics(out)), default=0) < step:
        assert not job.ended, job.said()
        assert time.monotonic() < deadline, job.said()
        time.sleep(0.02)


def is_worker(process: psutil.Process) -> bool:
    """Whether Ray Train trains in this process."""
    return _runs(WORKER, process)


def is_trial(process: psutil.Process) -> bool:
    """Whether Tune runs a trial in this process; one that has ended but is not reaped does not."""
    return _runs("ray::Pretraining", process)


def _runs(name: str, process: psutil.Process) -> bool:
    try:
        return name in " ".join(process.cmdline())
    except psutil.Error:
        return False


def record(out: Path) -> list[dict[str, float | str]]:
    """The record, without what depends on the machine: samples, losses, kNN."""
    return [{k: v for k, v in e.items() if k not in TIMINGS} for e in read_metrics(out)]


def samples(out: Path) -> list[tuple[float | str, float | str]]:
    """(step, digest of all samples up to it) for every step in the record."""
    return [(e["step"], e["samples_seen"]) for e in record(out) if "samples_seen" in e]
