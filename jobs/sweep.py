"""Sweeps over any fields of a pretraining: many runs, of which the best one's settings are kept."""

import os
import sys
from functools import partial

from jobs.cli import conclude, main
from jobs.sweep_options import read_options
from pipeline.core.errors import Stopped
from pipeline.core.progress import say


def run() -> int:
    """Run the sweep of the command line; 1 if all trials have ended and none finished."""
    options = read_options(sys.argv[1:], str(__doc__))
    sweep = options.sweep()
    # Torch and Ray take seconds to import: after the command line.
    import torch

    from training.sweep import preflight

    folder, most, cpus = sweep.folder, sweep.num_trials, options.cpus_per_worker
    workers = 1 if sweep.base.num_workers == "auto" else sweep.base.num_workers
    share_of = partial(
        preflight.share_of, concurrent=options.concurrent, most=most, workers=workers, cpus=cpus
    )
    if not os.environ.get("RAY_ADDRESS"):  # a Ray that is started here has no more than this
        share_of([{"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}])
    description = preflight.describe(sweep, preflight.check_trials(sweep, workers).plan_digest)
    preflight.check_folder(folder, description)
    # Ray takes seconds to start: only for a sweep that can run.
    from pipeline.precompute.ray_session import ray_running
    from training.ray.nodes import live_nodes
    from training.sweep import results, tune

    with ray_running():
        at_once, each = share_of([node.resources for node in live_nodes()])
        with preflight.locked(folder, description):
            trials = tune.read_trials(folder)
            left = results.num_left(sweep, trials, retry_failed=options.retry_failed)
            say(
                f"sweeping {', '.join(sweep.space)} ({sweep.search}, {sweep.scheduler}) in "
                f"{folder}: {left} of {most} trials left, {at_once} at a time, each "
                f"{each.num_workers} x {each.cpus_per_worker} CPU"
                + (" and 1 GPU" if each.use_gpu else "")
            )
            if left:
                trials = tune.run_trials(sweep, at_once, each, retry_failed=options.retry_failed)
            summary = results.write_results(sweep, trials)
            lines = results.terminal_table(sweep, trials).splitlines()
            left = results.num_left(sweep, trials)
    best = folder / results.BEST_FILE if summary["best"] else None
    table = folder / results.RESULTS_FILE
    if left:
        lines.append(f"stopped with {left} trials left; the same command goes on from there")
    elif best:
        lines.append(f"best       {best}: jobs/pretrain.py --config {best} --out NEW_FOLDER")
    lines.append(f"results    {table} (jobs/report.py {folder} shows them)")
    files = {"folder": folder, "results": table, "best_config": best, "trials_left": left}
    conclude(files | summary, *lines)
    return Stopped.exit_code if left else int(best is None)


if __name__ == "__main__":
    main(run)
