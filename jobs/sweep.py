"""Sweeps over any fields of a pretraining: many runs, of which the best one's settings are kept."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from jobs.cli import conclude, main
from jobs.sweep_options import SweepOptions, read_options
from pipeline.core.progress import say
from training.config.resources import Node
from training.sweep.config import Sweep
from training.sweep.description import check_folder, describe, locked, write_description
from training.sweep.fits import Share, share_of
from training.sweep.results import (
    BEST_FILE,
    RESULTS_FILE,
    num_left,
    terminal_table,
    write_results,
)


def share(options: SweepOptions, sweep: Sweep, nodes: Sequence[Node]) -> Share:
    """Divides the nodes among the trials; raises ``InputError`` where the trials do not fit."""
    workers = sweep.base.num_workers
    return share_of(
        nodes,
        concurrent=options.concurrent,
        most=sweep.num_trials,
        workers=1 if workers == "auto" else workers,
        cpus=options.cpus_per_worker,
    )


def run() -> int:
    """Parses the command line, checks and runs the sweep, and says where the results are."""
    options = read_options(sys.argv[1:], str(__doc__))
    sweep = options.sweep()
    # Torch and Ray take seconds to import: after the command line.
    import torch

    from training.sweep.preflight import check_trials, num_val_images

    if not os.environ.get("RAY_ADDRESS"):  # a Ray that is started here has no more than this
        share(options, sweep, [{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}])
    info = check_trials(sweep)
    check_folder(sweep, info.plan_digest)
    # Ray takes seconds to start: only for a sweep that can be.
    session = importlib.import_module("pipeline.precompute.ray_session")
    nodes = importlib.import_module("training.ray.nodes")
    with session.ray_running():
        shared = share(options, sweep, [node.resources for node in nodes.live_nodes()])
        check_trials(sweep, num_ranks=shared.resources.num_workers)
        description = describe(sweep, info.plan_digest, num_val_images(sweep))
        with locked(sweep.folder):
            return _sweep(options, sweep, shared, description)


def _sweep(options: SweepOptions, sweep: Sweep, shared: Share, description: dict[str, Any]) -> int:
    tune = importlib.import_module("training.sweep.tune")
    write_description(sweep, description)
    trials, workers = tune.read_trials(sweep.folder), shared.resources
    left = num_left(sweep, trials, retry_failed=options.retry_failed)
    say(
        f"sweeping {', '.join(sweep.space)} ({sweep.search}, {sweep.scheduler}) in {sweep.folder}: "
        f"{left} of {sweep.num_trials} trials left, {shared.trials} at a time, each "
        f"{workers.num_workers} x {workers.cpus_per_worker} CPU"
        + (" and 1 GPU" if workers.use_gpu else "")
    )
    if left:
        tune.run_trials(sweep, shared, description, retry_failed=options.retry_failed)
        trials = tune.read_trials(sweep.folder)
    left = num_left(sweep, trials)
    found, best = write_results(sweep, trials, description), sweep.folder / BEST_FILE
    lines = terminal_table(sweep, trials).splitlines()
    if left:
        lines.append(f"stopped with {left} trials left; the same command goes on from there")
    elif found["best"] is not None:
        lines.append(f"best       {best}: jobs/pretrain.py --config {best} --out NEW_FOLDER")
    results = sweep.folder / RESULTS_FILE
    conclude(
        {
            "folder": sweep.folder,
            "results": results,
            "trials_left": left,
            "best_config": best if found["best"] is not None else None,
            **found,
        },
        *lines,
        f"results    {results} (jobs/report.py {sweep.folder} shows them)",
    )
    return 0 if left or found["best"] is not None else 1


if __name__ == "__main__":
    main(run)
