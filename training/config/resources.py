"""How many workers train, and what each of them gets, on the nodes that there are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.core.errors import InputError

Node = dict[str, float]
"""Resources of a live node, as Ray counts them."""
Wanted = int | Literal["auto"]
"""A number of workers, or as many as fit: one per GPU; without GPUs one per node."""


@dataclass(frozen=True)
class Resources:
    """What each of the workers gets."""

    num_workers: int
    cpus_per_worker: int
    use_gpu: bool


def first_resources(
    wanted: Wanted, nodes: Sequence[Node], fits: Callable[[int], bool]
) -> Resources:
    """Chooses the workers that a run starts with, and the cores of each.

    Args:
        wanted: how many; ``auto`` takes the largest number that fits the batch.
        nodes: of the cluster.
        fits: whether the batch can be split over a number of workers.

    Raises:
        InputError: when the cluster cannot hold that many workers.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if wanted != "auto":
        return _spread(wanted, nodes, use_gpu=gpus > 0)
    most = gpus or sum(node.get("CPU", 0) >= 1 for node in nodes)
    found = fewer_resources(most, nodes, fits, use_gpu=gpus > 0)
    # Where no number suits the batch, the checks of a single worker say why.
    return found or _spread(1, nodes, use_gpu=gpus > 0)


def fewer_resources(
    most: int, nodes: Sequence[Node], fits: Callable[[int], bool], *, use_gpu: bool
) -> Resources | None:
    """The largest number of workers that the nodes hold and the batch can be split over.

    Args:
        most: never more than these.
        nodes: of the cluster.
        fits: whether the batch can be split over a number of workers.
        use_gpu: whether each worker has a GPU.

    Returns:
        None where there is no such number.
    """
    for count in range(most, 0, -1):
        if fits(count):
            try:
                return _spread(count, nodes, use_gpu=use_gpu)
            except InputError:
                continue  # too many for these nodes
    return None


def _spread(workers: int, nodes: Sequence[Node], *, use_gpu: bool) -> Resources:
    """The largest share of cores with which the nodes hold all the workers."""
    if use_gpu:
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if workers > gpus:
            raise InputError(f"{workers} workers were asked for, the cluster has {gpus} GPUs")
    cores = [int(node.get("CPU", 0)) for node in nodes]
    for share in range(max(cores, default=0), 0, -1):
        places = [
            min(cpus // share, int(node.get("GPU", 0))) if use_gpu else cpus // share
            for cpus, node in zip(cores, nodes, strict=True)
        ]
        if sum(places) >= workers:
            return Resources(workers, share, use_gpu)
    raise InputError(
        f"{workers} workers were asked for, the cluster has {sum(cores)} CPUs: "
        "lower --num-workers or start more nodes"
    )
