r"""Train and score the arms of a table side by side, in the background; print what came of it.

    python -m tests.benchmarks.ablation backgrounds --work runs/ablation --seeds 0 1 2 --jobs 2
    python -m tests.benchmarks.ablation --report

Tables are files in tests/benchmarks/tables: an arm is a name and options of jobs/pretrain.py. A
finished run is a line of JSON in the table's records and is never run again. After an interruption
the same command goes on; a kill loses at most five minutes of a run. Runs have the lowest
priority and wait while `make test` or `make bench` of this checkout is at work.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import main, parse
from pipeline.core.errors import InputError
from tests.benchmarks.ablation_records import read_records
from tests.benchmarks.ablation_report import draw_frontier, report
from tests.benchmarks.ablation_run import EXIT_ELSEWHERE, Run, run_in_process
from tests.benchmarks.ablation_table import find_table, known_tables
from tests.benchmarks.quiet import QUIET_FILE

ROOT = Path(__file__).resolve().parents[2]
RECORDS = ROOT / "tests" / "benchmarks" / "records"


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Which arms are run, or what is reported.

    Attributes:
        table: name of a file in tests/benchmarks/tables; without one --report takes all.
        work: folder of data, runs and logs; none of it is needed afterwards.
        arms: of the table; none: all.
        seeds: of pictures, weights and draws; from 100 on for choosing settings.
        jobs: runs at once, each with one thread.
        records: file of the finished runs; none: tests/benchmarks/records/TABLE.jsonl.
        report: print what is recorded, and run nothing.
        against: arm that the others are compared with; none: the table's baseline.
        plot: with --report, draw usual against changed backgrounds in this file.
    """

    table: Annotated[str, tyro.conf.Positional] = ""
    work: Path = Path("runs/ablation")
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 1
    records: Path | None = None
    report: bool = False
    against: str | None = None
    plot: Path | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1 or min(self.seeds, default=-1) < 0:
            raise InputError(f"jobs {self.jobs} must be 1 or more, seeds {self.seeds} 0 or more")
        if not self.table and not self.report:
            raise InputError("name a table, or give --report")

    def records_of(self, table: str) -> Path:
        """The file of a table's finished runs."""
        return (self.records or RECORDS / f"{table}.jsonl").absolute()


def planned(config: AblationConfig, quiet_file: Path = QUIET_FILE) -> list[Run]:
    """All runs that a person asked for: whole comparisons first, seed by seed."""
    table, commit = find_table(config.table), commit_here()
    arms = config.arms or tuple(table.arms)
    for arm in arms:
        table.options(arm)
    return [
        Run(
            table=table.name,
            arm=arm,
            seed=seed,
            work=config.work.absolute(),
            records=config.records_of(table.name),
            commit=commit,
            quiet_file=quiet_file,
        )
        for seed in config.seeds
        for arm in arms
    ]


def run_all(runs: Sequence[Run], jobs: int) -> int:
    """Run what is not recorded yet, `jobs` at a time; returns how many did not finish."""
    waiting = [run for run in runs if not run.finished]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} of them finished", flush=True)
    # Forked from a server that has imported everything: what runs is the code of the start, even
    # if the tree changes below a run of hours.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run_in_process.__module__])
    running: dict[ForkServerProcess, tuple[Run, float]] = {}
    failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                process = context.Process(target=run_in_process, args=(run,))
                process.start()
                running[process] = run, time.monotonic()
                print(f"started  {run}: {run.folder}", flush=True)
            multiprocessing.connection.wait([process.sentinel for process in running])
            for process in [process for process in running if process.exitcode is not None]:
                run, started = running.pop(process)
                failed += process.exitcode not in (0, EXIT_ELSEWHERE)
                words = {0: "finished", EXIT_ELSEWHERE: "left to another process:"}
                broken = f"BROKEN OFF (exit code {process.exitcode}):"
                minutes = (time.monotonic() - started) / 60
                said = words.get(process.exitcode or 0, broken)
                print(f"{said} {run} after {minutes:.1f} min", flush=True)
    finally:
        for process in running:
            process.terminate()  # the loop answers with a checkpoint
        for process in running:
            process.join()
    return failed


def commit_here() -> str:
    """The commit of this checkout, with a + where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], text=True)
        differ = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + "+" * bool(differ.strip())


def run(arguments: Sequence[str] | None = None, quiet_file: Path = QUIET_FILE) -> int:
    """Parse, run or report; returns 1 where a run did not finish."""
    config = parse(AblationConfig, "ablation", arguments, description=__doc__)
    recorded = {file.stem for file in RECORDS.glob("*.jsonl")}
    names = [config.table] if config.table else sorted(recorded & set(known_tables()))
    failed = 0
    if not config.report:
        failed = run_all(planned(config, quiet_file), config.jobs)
    for name in names:
        table = find_table(name)
        found = read_records(config.records_of(name)).values()
        records = [record for record in found if record["table"] == name]
        against = config.against or table.baseline
        print(f"\n## {name}\n\n{table.about}\n\n{report(records, against)}")
        if config.plot is not None and records:
            draw_frontier(records, config.plot)
    return 1 if failed else 0


def _stop(_number: int, _frame: object) -> None:
    sys.exit("stopped: the same command goes on")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(19)
    signal.signal(signal.SIGTERM, _stop)
    main(run)
