r"""Trains and scores the method's arms side by side: masks, hard negatives, fills, methods, seeds.

Needs no Ray. A finished run is recorded as it ends, an unfinished one goes on from its checkpoint,
and cells that are the same run are run once: start the same command again after anything.

    python -m tests.benchmarks.ablation --preset cpu --train-shards runs/imagenette/train \
        --val-shards runs/imagenette/val --out runs/ablation --jobs 2
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Literal

from jobs.cli import main, parse
from pipeline.errors import InputError
from tests.benchmarks.ablation_cells import Cell, Setting, cell_config, run_cell
from tests.benchmarks.ablation_records import PLOT_FILE, plot, read_records, table
from training.masking.config import Strategy

Negatives = Literal["no", "own", "released"]
Arm = tuple[Strategy, Negatives]

RATES = (0.005, 0.01, 0.02, 0.04)
GPU_SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Arms of the ablation: every combination of the lists below, or a preset.

    Attributes:
        out: folder of the ablation: records.jsonl, the plot, the runs.
        train_shards: labelled shards to pretrain on and to score with.
        val_shards: labelled shards that are classified.
        preset: cpu is {none, random, balanced + own} by MoCo v2 and SimCLR at 64 px; gpu tunes the
            baseline's learning rate at 128 px and goes on with it: {none, random, balanced,
            balanced + own} with three seeds, then high-pass, released, shuffled, SimCLR; debug is
            two cells of seconds.
        strategies: which patches of the query are masked.
        negatives: no, own or released hard negatives.
        fills: mean, blur or high_pass.
        methods: moco_v2 or simclr.
        seeds: of the runs.
        epochs: of every run; None: the preset's (30, 100, 2), else 30.
        view_size: side of a view; None: the preset's (64, 128, 32), else 64.
        jobs: runs at once, each with one thread.
        table: print the table of what is finished and draw the plot, and run nothing.
    """

    out: Path
    train_shards: Path | None = None
    val_shards: Path | None = None
    preset: Literal["cpu", "gpu", "debug"] | None = None
    strategies: tuple[Literal["none", "random", "shuffled", "balanced"], ...] = ("none", "balanced")
    negatives: tuple[Negatives, ...] = ("no", "own")
    fills: tuple[Literal["mean", "blur", "high_pass"], ...] = ("mean",)
    methods: tuple[Literal["moco_v2", "simclr"], ...] = ("moco_v2",)
    seeds: tuple[int, ...] = (0,)
    epochs: int | None = None
    view_size: int | None = None
    jobs: int = 1
    table: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1 or (self.epochs is not None and self.epochs < 1):
            raise InputError(f"jobs {self.jobs} and epochs {self.epochs} must be 1 or more")


def cpu_cells() -> list[Cell]:
    """Most wanted first, for when the time does not reach the end."""
    arms: tuple[Arm, ...] = (("none", "no"), ("balanced", "own"), ("random", "no"))
    return [Cell(method=m, strategy=s, negatives=n) for m in ("moco_v2", "simclr") for s, n in arms]


def gpu_tuning() -> list[Cell]:
    """The baseline at several learning rates."""
    return [Cell(method="moco_v2", strategy="none", negatives="no", lr=rate) for rate in RATES]


def gpu_cells(lr: float) -> list[Cell]:
    """What is run with the baseline's best learning rate, in this order."""

    def moco(strategy: Strategy, negatives: Negatives, fill: str = "mean") -> list[Cell]:
        return [
            Cell(
                method="moco_v2",
                strategy=strategy,
                negatives=negatives,
                fill=fill,
                seed=seed,
                lr=lr,
            )
            for seed in GPU_SEEDS
        ]

    arms: tuple[Arm, ...] = (
        ("none", "no"),
        ("random", "no"),
        ("balanced", "no"),
        ("balanced", "own"),
    )
    by_seed = list(zip(*(moco(*arm) for arm in arms), strict=True))  # a whole comparison first
    more = [
        *moco("none", "no", "high_pass"),
        *moco("balanced", "own", "high_pass"),
        *moco("balanced", "released"),
        *moco("shuffled", "own"),
    ]
    simclr = [Cell(method="simclr", strategy=s, negatives=n) for s, n in arms]
    return [cell for cells in by_seed for cell in cells] + more + simclr


def different(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without those that are the same run as an earlier one."""
    return list(dict.fromkeys(cell.canonical() for cell in cells))


def setting_of(config: AblationConfig) -> Setting:
    """What all cells share; a folder that is not given is an `InputError`."""
    if config.train_shards is None or config.val_shards is None:
        raise InputError("give --train-shards and --val-shards, or --table for what is finished")
    epochs, size = {"gpu": (100, 128), "debug": (2, None)}.get(config.preset or "", (30, 64))
    return Setting(
        train_shards=config.train_shards.absolute(),
        val_shards=config.val_shards.absolute(),
        out=config.out.absolute(),
        recipe="debug" if config.preset == "debug" else "small",
        epochs=config.epochs or epochs,
        view_size=config.view_size or size,
    )


def run_cells(cells: Sequence[Cell], setting: Setting, jobs: int) -> int:
    """Runs what is not recorded yet, `jobs` at a time; returns how many did not finish."""
    done = {record["digest"] for record in read_records(setting.out)}
    cells = different(cells)
    waiting = [cell for cell in cells if cell_config(cell, setting).out.name not in done]
    print(f"{len(cells)} different runs, {len(cells) - len(waiting)} of them finished", flush=True)
    # Forked from a server that has imported everything: what runs is the code of the start, even
    # if the tree changes below a run of hours, and no process inherits another's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_cell.__module__])
    running: dict[Cell, tuple[ForkServerProcess, float]] = {}
    failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                process = context.Process(target=run_cell, args=(cell, setting))
                process.start()
                running[cell] = process, time.monotonic()
                print(f"started  {cell}: {cell_config(cell, setting).out}", flush=True)
            multiprocessing.connection.wait([process.sentinel for process, _ in running.values()])
            for cell, (process, started) in list(running.items()):
                if process.exitcode is not None:
                    del running[cell]
                    failed += not _is_finished(cell, setting, process, started)
    finally:
        for process, _ in running.values():
            process.terminate()  # the loop answers with a checkpoint
        for process, _ in running.values():
            process.join()
    return failed


def _is_finished(cell: Cell, setting: Setting, process: ForkServerProcess, started: float) -> bool:
    digest = cell_config(cell, setting).out.name
    finished = digest in {record["digest"] for record in read_records(setting.out)}
    word = "finished" if finished else f"BROKEN OFF (exit code {process.exitcode})"
    print(f"{word} {cell} after {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return finished


def tuned_rate(setting: Setting) -> float:
    """The learning rate at which the baseline's 20-NN is best.

    Chosen on the validation images, which favours the baseline: a gain over it is a gain.
    """
    by_digest = {record["digest"]: record for record in read_records(setting.out)}
    scores = {
        cell.lr: by_digest[digest]["knn"]
        for cell in gpu_tuning()
        if (digest := cell_config(cell, setting).out.name) in by_digest
    }
    if not scores:
        raise InputError("no run of the baseline has finished: there is no learning rate to take")
    best = max(scores, key=lambda rate: scores[rate])
    assert best is not None
    print(f"baseline's learning rate: {best:g} of {scores}", flush=True)
    return best


def run(arguments: Sequence[str] | None = None) -> int:
    """Parses, runs, prints the table; 1 where a run did not finish."""
    config = parse(AblationConfig, "ablation", arguments)
    failed = 0
    if not config.table:
        setting = setting_of(config)
        if config.preset == "gpu":
            failed = run_cells(gpu_tuning(), setting, config.jobs)
            failed += run_cells(gpu_cells(tuned_rate(setting)), setting, config.jobs)
        else:
            failed = run_cells(chosen_cells(config), setting, config.jobs)
    records = read_records(config.out)
    print(table(records))
    if records:
        print(plot(records, config.out / PLOT_FILE))
    return 1 if failed else 0


def chosen_cells(config: AblationConfig) -> list[Cell]:
    """The preset's cells, or every combination of the lists."""
    if config.preset == "cpu":
        return cpu_cells()
    if config.preset == "debug":
        return [
            Cell(method="moco_v2", strategy="none", negatives="no"),
            Cell(method="moco_v2", strategy="balanced", negatives="own"),
        ]
    lists = (config.methods, config.strategies, config.negatives, config.fills, config.seeds)
    return [
        Cell(method=m, strategy=s, negatives=n, fill=f, seed=seed)
        for m, s, n, f, seed in product(*lists)
    ]


def _stop(_number: int, _frame: object) -> None:
    sys.exit("stopped")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGTERM, _stop)
    main(run)
