"""Sweeps over any fields of a pretraining: many runs, of which the best one's settings are kept."""

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from jobs.cli import EXIT_INTERRUPTED, conclude, main
from jobs.sweep_options import SweepOptions, read_options
from pipeline.core.progress import say
from training.config.resources import Node
from training.sweep.config import Sweep
from training.sweep.description import check_folder, describe, write_description
from training.sweep.director import Director, check_reported
from training.sweep.fits import Share, share_of
from training.sweep.ledger import Ledger
from training.sweep.lock import locked
from training.sweep.preflight import check_trials
from training.sweep.results import RESULTS_FILE, summary, terminal_table, write_summary


def share(options: SweepOptions, sweep: Sweep, nodes: Sequence[Node]) -> Share:
    """Divides the nodes among the trials; raises ``InputError`` where they would deadlock."""
    workers = sweep.base.num_workers
    return share_of(
        nodes,
        concurrent=options.concurrent,
        most=sweep.num_trials,
        workers=1 if workers == "auto" else workers,
        cpus=options.cpus_per_worker,
    )


def this_machine() -> list[Node]:
    """The most that a Ray which is started here would have: seen at once, without starting it."""
    return [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]


def run() -> int:
    """Parses, checks, sweeps, says where the results are."""
    options = read_options(sys.argv[1:], str(__doc__))
    sweep = options.sweep()
    if not os.environ.get("RAY_ADDRESS"):
        share(options, sweep, this_machine())
    info = check_trials(sweep)
    check_folder(sweep, info.plan_digest)
    # Ray takes seconds to import and to start: only for a sweep that can be.
    session = importlib.import_module("pipeline.precompute.ray_session")
    nodes = importlib.import_module("training.ray.nodes")
    with session.ray_running():
        shared = share(options, sweep, [node.resources for node in nodes.live_nodes()])
        check_trials(sweep, num_ranks=shared.resources.num_workers)
        with locked(sweep.folder):
            return _sweep(options, sweep, shared, describe(sweep, info.plan_digest))


def _sweep(options: SweepOptions, sweep: Sweep, shared: Share, description: dict[str, Any]) -> int:
    tune = importlib.import_module("training.sweep.tune")
    write_description(sweep, description)
    judge = tune.judge_of(sweep)
    director = Director(sweep, Ledger(sweep.folder), judge=judge, description=description)
    if options.retry_failed:
        director.reopen_failed()
    workers = shared.resources
    say(
        f"sweeping {', '.join(sweep.space)} ({sweep.search}, {sweep.scheduler}) in {sweep.folder}: "
        f"{director.num_left} of {sweep.num_trials} trials left, {shared.trials} at a time, each "
        f"{workers.num_workers} x {workers.cpus_per_worker} CPU"
        + (" and 1 GPU" if workers.use_gpu else "")
    )
    if director.num_left:
        tune.run_trials(sweep, director, shared)
    director.write_results()
    best = write_summary(sweep, director.trials)
    if not director.num_left:
        check_reported(director.trials, sweep)
    conclude(
        {
            "folder": sweep.folder,
            "results": sweep.folder / RESULTS_FILE,
            "trials_left": director.num_left,
            "best_config": best,
            **summary(sweep, director.trials),
        },
        *terminal_table(sweep, director.trials).splitlines(),
        *_last_lines(sweep, director.num_left, best),
    )
    if director.num_left:
        return 0 if director.closing else EXIT_INTERRUPTED
    return 1 if best is None else 0


def _last_lines(sweep: Sweep, num_left: int, best: Path | None) -> Iterator[str]:
    if num_left:
        yield f"stopped with {num_left} trials left; the same command goes on from there"
    elif best is not None:
        yield f"best       {best}: jobs/pretrain.py --config {best} --out NEW_FOLDER"
    yield f"results    {sweep.folder / RESULTS_FILE} (jobs/report.py {sweep.folder} shows them)"


if __name__ == "__main__":
    main(run)
