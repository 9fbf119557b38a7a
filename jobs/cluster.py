"""Start and stop a Ray cluster on this machine; wait for the nodes of any cluster."""

from contextlib import closing
from functools import partial
from pathlib import Path

import tyro

from jobs import local_head as head
from jobs.cli import main
from jobs.terminal import Terminal
from pipeline.core.errors import InputError
from pipeline.core.progress import listening

STATE = Path("runs/cluster")


def up(
    *,
    port: int = 6379,
    dashboard_port: int = 8265,
    num_cpus: int | None = None,
    state: Path = STATE,
) -> None:
    """Start a Ray head with a dashboard and a job server.

    Args:
        port: port of the cluster (GCS).
        dashboard_port: port of the dashboard and the job server on 127.0.0.1.
        num_cpus: CPUs that tasks share; none: all of the machine.
        state: folder for the head's log, its token, and the file that shells source.
    """
    folder, news = state.absolute(), "is already up"
    if not head.is_up(folder):
        head.start(folder, port=port, dashboard_port=dashboard_port, num_cpus=num_cpus)
        news = "is up"
    url = head.read_environment(folder)["RAY_API_SERVER_ADDRESS"]
    print(f"""the cluster {news}: dashboard and job server at {url} (log: {state}/head.log)
  in every shell:   source {state}/env
  submit a job:     ray job submit -- python jobs/pretrain.py --shards ... --out ...
  the dashboard asks for a token once:  ray get-auth-token
  stop it:          make cluster-down""")


def down(*, state: Path = STATE) -> None:
    """Stop the jobs (they get SIGTERM and a minute to save), then the head.

    Args:
        state: folder for the head's files.
    """
    folder = state.absolute()
    if not head.processes_of(folder):
        print("no cluster of this folder is up")
        return
    try:
        for job in head.stop_jobs(folder) if head.is_up(folder) else ():
            print(f"stopped the job {job}")
    except (ConnectionError, RuntimeError) as error:  # a head that is sick is ended all the same
        print(f"the job server does not answer ({error})")
    head.stop(folder)
    print("the cluster is down")


def wait(*, gpus: int = 0, cpus: int = 0, minutes: float = 30.0) -> None:
    """Wait until the cluster of this job has so many GPUs or CPUs; ask its autoscaler for them.

    Args:
        gpus: GPUs of all nodes together; 0: wait for CPUs.
        cpus: CPUs of all nodes together, where no GPUs are wanted.
        minutes: time limit.
    """
    if (gpus > 0) == (cpus > 0):
        raise InputError("give either --gpus or --cpus, 1 or more")
    from training.ray.nodes import wait_for  # imports Ray

    name, count = ("GPU", gpus) if gpus else ("CPU", cpus)
    print(f"waiting for {count} {name}s, {minutes:g} min at most", flush=True)
    with closing(Terminal()) as terminal, listening(terminal):
        wait_for(name, count, minutes * 60)
    print(f"the cluster has {count} {name}s")


run = partial(tyro.extras.subcommand_cli_from_dict, {"up": up, "down": down, "wait": wait})

if __name__ == "__main__":
    main(run)
