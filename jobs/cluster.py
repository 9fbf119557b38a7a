"""A local Ray head with job server (make cluster-up, cluster-down), and waiting for nodes."""

import importlib
import sys
from pathlib import Path

import tyro

from jobs.job_server import ensure_token, send_token_by_default, stop_jobs
from jobs.local_cluster import remembered_head, running_head, start_head, stop_head
from pipeline.core.errors import InputError

STATE = Path("runs/cluster")


def up(
    *,
    port: int = 6379,
    dashboard_port: int = 8265,
    num_cpus: int | None = None,
    state: Path = STATE,
) -> None:
    """Start the head.

    Args:
        port: port of the cluster (GCS).
        dashboard_port: port of the dashboard and the job server on 127.0.0.1.
        num_cpus: CPUs that tasks share (default: all of the machine).
        state: folder for the log and the head's pid.
    """
    head = running_head(state)
    if head is None:
        if (stale := remembered_head(state)) is not None:
            stop_head(stale, state)
        ensure_token()
        send_token_by_default()
        head = start_head(
            Path.cwd(),
            state,
            port=port,
            dashboard_port=dashboard_port,
            num_cpus=num_cpus,
        )
        print(f"the cluster is up: dashboard and job server at {head.url} (log: {state}/head.log)")
    else:
        print(f"the cluster is already up: dashboard and job server at {head.url}")
    folder = Path(sys.executable).parent
    print(f'''  in any shell, in this folder:  export PATH="{folder}:$PATH"
  submit a job:     ray job submit -- python jobs/pretrain.py --shards ... --out ...
  the dashboard asks for a token once:  ray get-auth-token
  stop it:          make cluster-down''')


def down(*, state: Path = STATE) -> None:
    """Stop the jobs (they get SIGTERM and a minute to save), then the head.

    Args:
        state: folder for the log and the head's pid.
    """
    head = remembered_head(state)
    if head is None:
        print("no cluster of this folder is up")
        return
    if running_head(state) is not None:
        try:
            for job in stop_jobs(head.url):
                print(f"stopped the job {job}")
        except OSError as error:  # a sick head is ended all the same
            print(f"the job server does not answer ({error})")
    stop_head(head, state)
    print("the cluster is down")


def wait(*, gpus: int = 0, cpus: int = 0, minutes: float = 30.0) -> None:
    """Wait until the cluster that runs this job has so much; an autoscaler is asked for it.

    Args:
        gpus: of all nodes together; 0: wait for CPUs.
        cpus: of all nodes together, where no GPUs are wanted.
        minutes: how long to wait.
    """
    if (gpus > 0) == (cpus > 0):
        raise InputError("give either --gpus or --cpus, 1 or more")
    name, count = ("GPU", gpus) if gpus else ("CPU", cpus)
    print(f"waiting for {count} {name}s, {minutes:g} min at most", flush=True)
    # Ray takes seconds to import: only where it is used.
    importlib.import_module("training.ray.waiting").wait_for(name, count, minutes * 60)
    print(f"the cluster has {count} {name}s")


def main() -> int:
    """Parse, call, exit code."""
    try:
        tyro.extras.subcommand_cli_from_dict({"up": up, "down": down, "wait": wait})
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
