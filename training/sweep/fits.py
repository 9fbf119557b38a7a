"""How many trials a cluster holds at once, and what each of their workers gets.

A trial holds its workers' cores (and a GPU each) from its start to its end; its own process only
waits, and holds none. Two trials that each hold half of what they need would wait for each other
for ever without an error: so a sweep whose trials cannot all be held at once is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import InputError
from training.config.resources import Node, Resources, first_resources


@dataclass(frozen=True)
class Share:
    """What the trials of a sweep hold.

    Attributes:
        trials: at once.
        resources: of each of them.
    """

    trials: int
    resources: Resources


def num_fitting(nodes: Sequence[Node], *, workers: int, cpus: int) -> int:
    """How many trials of some workers the nodes hold at once; a worker lies on one node.

    Args:
        nodes: of the cluster. Where there are GPUs every worker has one.
        workers: of each trial.
        cpus: of each worker.
    """
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    places = [
        min(int(node.get("CPU", 0)) // cpus, int(node.get("GPU", 0)) if use_gpu else 1 << 30)
        for node in nodes
    ]
    return sum(places) // workers


def share_of(
    nodes: Sequence[Node], *, concurrent: int | None, most: int, workers: int, cpus: int | None
) -> Share:
    """Divides a cluster among trials.

    Args:
        nodes: of the cluster.
        concurrent: trials at once, as a person gave it; None: as many as fit.
        most: trials that there are to run.
        workers: of each trial.
        cpus: of each worker; None: the nodes' cores divided by the workers on them.

    Raises:
        InputError: they do not fit; has the arithmetic, and a number that fits.
    """
    fitting = num_fitting(nodes, workers=workers, cpus=cpus or 1)
    trials = min(concurrent or max(fitting, 1), most)
    if trials > fitting:
        raise InputError(
            _refusal(nodes, trials=trials, workers=workers, cpus=cpus or 1, fitting=fitting)
        )
    spread = first_resources(trials * workers, nodes, lambda _: True)
    return Share(trials, Resources(workers, cpus or spread.cpus_per_worker, spread.use_gpu))


def _refusal(nodes: Sequence[Node], *, trials: int, workers: int, cpus: int, fitting: int) -> str:
    cores = sum(int(node.get("CPU", 0)) for node in nodes)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    workers_text = f"{workers} worker{'s' if workers > 1 else ''}"
    sum_text = _count(trials * workers * cpus, "CPU")
    needed = f"{trials} x {workers_text} x {_count(cpus, 'CPU')} = {sum_text}"
    has = _count(cores, "CPU")
    if gpus:
        needed += f" and {_count(trials * workers, 'GPU')}"
        has += f" and {_count(gpus, 'GPU')}"
    if len(nodes) > 1:
        has += f" on {len(nodes)} nodes (a worker lies on one)"
    advice = (
        f"--concurrent {fitting} fits"
        if fitting
        else "not even one trial fits: lower --num-workers or --cpus-per-worker, or add nodes"
    )
    return (
        f"{_count(trials, 'trial')} at a time would wait for each other for ever: {needed}, "
        f"the cluster has {has}; {advice}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
