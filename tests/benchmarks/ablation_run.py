"""One run of the ablation in a process of its own: train, or go on; score; record."""

import fcntl
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import sleep

import torch
from torch import nn

from jobs.pretrain_options import read_command_line
from pipeline.core.progress import listening
from pipeline.storage.atomic import write_atomically
from tests.benchmarks.ablation_records import (
    Record,
    Right,
    append_record,
    packed,
    read_records,
    run_key,
)
from tests.benchmarks.ablation_table import Data, Options, command_line, find_table, plain
from tests.benchmarks.quiet import QUIET_FILE, is_held
from training.core.context import LocalContext
from training.encoders.encoder import Backbone
from training.engine.local import launch
from training.evaluate.encoders import load_encoders
from training.evaluate.frozen import knn_predict, linear_probe
from training.evaluate.labelled import open_labelled
from training.record.relay import Relay

EXIT_ELSEWHERE, EXIT_STOPPED = 75, 76
SECONDS_BETWEEN_LOOKS = 1.0
COST_FILE = "cost.json"
STEPS_BETWEEN_COSTS = 50
# A kill loses at most five minutes; checks on the way would only cost time.
HARNESS: Options = {
    "knn.every-epochs": 1_000_000,
    "checkpoint.every-minutes": 5.0,
    "checkpoint.every-epochs": 0,
    "checkpoint.keep": 1,
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """An arm with a seed of pictures, weights and draws.

    `work` holds data, runs and locks, `records` the finished runs. The run pauses while the lock
    `quiet_file` is held.
    """

    table: str
    arm: str
    seed: int
    work: Path
    records: Path
    commit: str
    quiet_file: Path = QUIET_FILE

    def __str__(self) -> str:
        return f"{self.table}: {self.arm}, seed {self.seed}"

    @property
    def options(self) -> Options:
        """All options of the arm."""
        return find_table(self.table).options(self.arm)

    @property
    def key(self) -> str:
        """What makes two runs the same."""
        return run_key(self.table, self.arm, self.seed, self.options)

    @property
    def folder(self) -> Path:
        """Of checkpoints and backbone."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:10]
        arm = re.sub(r"\W+", "-", self.arm)
        return self.work / "runs" / f"{self.table}-{arm}-{self.seed}-{digest}"

    @property
    def finished(self) -> bool:
        """Whether it is recorded."""
        return self.key in read_records(self.records)


class AblationContext(LocalContext):
    """Asked after every step: waits while the machine is to be quiet, and keeps the cost."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run, self._steps, self._pixels = run, -1, 0  # the first step's end starts the clock
        self._started, self._cpu_started = 0.0, 0.0
        self._cost: dict[str, float] = {}
        self._hook = nn.modules.module.register_module_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Backbone) and module.training:  # not of a check
            images, _, height, width = inputs[0].shape
            self._pixels += images * height * width

    def stop_requested(self) -> bool:
        """Waits while the lock is held; a run whose ablation was killed stops too."""
        self._steps += 1
        began = time.monotonic()
        if self._steps == 0:
            self._pixels, self._started, self._cpu_started = 0, began, time.process_time()
        else:
            self._cost = {
                "seconds": (began - self._started) / self._steps,
                "cpu_seconds": (time.process_time() - self._cpu_started) / self._steps,
                "pixels": self._pixels / self._steps,
            }
            if self._steps % STEPS_BETWEEN_COSTS == 0:
                self.write_cost()
        while not super().stop_requested() and _parent_lives() and is_held(self.run.quiet_file):
            sleep(SECONDS_BETWEEN_LOOKS)
        self._started += time.monotonic() - began
        return super().stop_requested() or not _parent_lives()

    def write_cost(self) -> None:
        """Keep the mean cost of this process's steps, unless they are few beside earlier ones."""
        path = self.run.folder / COST_FILE
        if self._cost and (self._steps >= STEPS_BETWEEN_COSTS or not path.exists()):
            write_atomically(path, json.dumps(self._cost).encode())

    def close(self) -> None:
        """Keep the cost and count no more."""
        self.write_cost()
        self._hook.remove()


def _parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


def execute(run: Run) -> int:
    """Train, score and record a run, or go on with it; returns an exit code."""
    locks = run.work / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / run.folder.name).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return EXIT_ELSEWHERE
        if run.finished:
            return 0
        if (same := recorded_elsewhere(run)) is not None:
            append_record(run.records, same | {"table": run.table, "arm": run.arm})
            return 0
        return _execute(run)


def recorded_elsewhere(run: Run) -> Record | None:
    """The record of the same run, if the table whose data this one shares has it.

    The same options, saliency and seed give the same weights in the same precision. The record
    keeps its own commit and processor.
    """
    table = find_table(run.table)
    if not table.data_of:
        return None
    other, records = find_table(table.data_of), run.records.with_name(f"{table.data_of}.jsonl")
    wanted = plain(run.options), run.seed, table.source(run.arm)
    for record in read_records(records).values():
        arm = record["arm"]
        if (plain(record["options"]), record["seed"], other.source(arm)) == wanted:
            return record
    return None


def _execute(run: Run) -> int:
    data = prepared_data(run)
    places: Options = {"shards": str(data.shards), "out": str(run.folder), "seed": run.seed}
    _, _, config = read_command_line(command_line(HARNESS | run.options | places))
    context = AblationContext(run)
    try:
        result = launch(config, context)
    finally:
        context.close()
    if not result.finished:
        return EXIT_STOPPED
    cost = json.loads((run.folder / COST_FILE).read_text())
    scores = score(run.folder / "backbone", data)

    def of_scores(what: Callable[[Right], object]) -> dict[str, dict[str, object]]:
        return {c: {name: what(one) for name, one in s.items()} for c, s in scores.items()}

    record = {
        "table": run.table,
        "arm": run.arm,
        "seed": run.seed,
        "options": run.options,
        "figures": of_scores(lambda right: round(100 * float(right.mean()), 3)),
        "steps": result.total_steps,
        "seconds": round(cost["seconds"] * result.total_steps, 1),
        "cpu_seconds": round(cost["cpu_seconds"] * result.total_steps, 1),
        "pixels": round(cost["pixels"] * result.total_steps),
        "commit": run.commit,
        "processor": processor(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "images": {column: open_labelled(data.tests[column]).digest[:16] for column in scores},
        "num_images": {c: len(next(iter(found.values()))) for c, found in scores.items()},
        "right": of_scores(packed),
    }
    append_record(run.records, record)
    shutil.rmtree(run.folder / "checkpoints")
    return 0


def prepared_data(run: Run) -> Data:
    """The data of a run, made where they are missing; one process at a time makes them."""
    table = find_table(run.table)
    with (run.work / "locks" / f"{table.data_folder}-data").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return table.data(run.arm, run.work / "data" / table.data_folder, run.seed)


def score(backbone: Path, data: Data) -> dict[str, dict[str, Right]]:
    """Which images of each column 20-NN and the fast linear probe have right: bool [V] each."""
    device = torch.device("cpu")
    (encoder,) = load_encoders(
        [str(backbone)], encoder="query", seed=0, device=device, num_threads=1
    )
    names = (data.shards, *data.tests.values())
    (bank, labels), *tests = (encoder.features(open_labelled(name)) for name in names)
    num_classes = int(labels.max()) + 1
    features = torch.cat([features for features, _ in tests])
    wanted = torch.cat([wanted for _, wanted in tests])
    knn = knn_predict(bank, labels, features, k=20, temperature=0.07, num_classes=num_classes)
    probe = linear_probe(bank, labels, features, wanted, num_classes=num_classes).predicted_V
    counts = [len(wanted) for _, wanted in tests]
    right = {"knn": (knn == wanted).split(counts), "probe": (probe == wanted).split(counts)}
    return {
        column: {name: found[number].numpy() for name, found in right.items()}
        for number, column in enumerate(data.tests)
    }


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def run_in_process(run: Run) -> None:
    """`execute` as a process of its own; its progress goes to a file, its end is its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent asks for a stop, by SIGTERM
    # Linux may share the cores out by sessions first; within one, nice is all that counts.
    os.setsid()
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
    torch.set_num_threads(1)
    log = run.work / "logs" / run.folder.name
    log.mkdir(parents=True, exist_ok=True)
    with listening(Relay(log)):
        raise SystemExit(execute(run))
