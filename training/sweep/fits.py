"""How many trials a cluster holds at once, and what each of their workers gets.

A trial holds its workers' cores, and a GPU for each worker, from its start to its end. Its own
process only waits, and holds no core. Trials that never all fit would wait for each other, so such
a sweep is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import InputError
from training.config.resources import Node, Resources, first_resources


@dataclass(frozen=True)
class Share:
    """The trials that run at once, and the resources of each of them."""

    trials: int
    resources: Resources


def num_fitting(nodes: Sequence[Node], *, workers: int, cpus: int) -> int:
    """The number of trials that the nodes hold at once.

    Args:
        nodes: of the cluster. Where there are GPUs, every worker has one.
        workers: of each trial; a worker lies on one node.
        cpus: of each worker.
    """
    use_gpu = any(node.get("GPU", 0) >= 1 for node in nodes)
    held = [
        min(int(node.get("CPU", 0)) // cpus, int(node.get("GPU", 0)) if use_gpu else 1 << 30)
        for node in nodes
    ]
    return sum(held) // workers


def share_of(
    nodes: Sequence[Node], *, concurrent: int | None, most: int, workers: int, cpus: int | None
) -> Share:
    """Divides a cluster among trials.

    Args:
        nodes: of the cluster.
        concurrent: trials at once; None means as many as fit.
        most: trials that there are to run.
        workers: of each trial.
        cpus: of each worker; None means the nodes' cores divided by their workers.

    Raises:
        InputError: the trials do not fit; the message has the arithmetic and a number that fits.
    """
    fitting = num_fitting(nodes, workers=workers, cpus=cpus or 1)
    trials = min(concurrent or max(fitting, 1), most)
    if trials > fitting:
        raise InputError(_refusal(nodes, trials, workers, cpus or 1, fitting))
    spread = first_resources(trials * workers, nodes, lambda _: True)
    return Share(trials, Resources(workers, cpus or spread.cpus_per_worker, spread.use_gpu))


def _refusal(nodes: Sequence[Node], trials: int, workers: int, cpus: int, fitting: int) -> str:
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    total = _count(trials * workers * cpus, "CPU")
    needed = f"{trials} x {_count(workers, 'worker')} x {_count(cpus, 'CPU')} = {total}"
    has = _count(sum(int(node.get("CPU", 0)) for node in nodes), "CPU")
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
