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
    """The workers that a run starts with; ``auto``: as many as the nodes hold and ``fits``.

    Raises:
        InputError: the nodes cannot hold the number that is wanted.
    """
    gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    if wanted == "auto":
        most = gpus or sum(node.get("CPU", 0) >= 1 for node in nodes)
        found = fewer_resources(most, nodes, fits, use_gpu=gpus > 0)
        if found is not None:
            return found
        wanted = 1  # no number suits the batch: the checks of a single worker say why
    if share := _cores_each(wanted, nodes, use_gpu=gpus > 0):
        return Resources(wanted, share, gpus > 0)
    has = f"{gpus} GPUs" if 0 < gpus < wanted else f"{cpus} CPUs"
    raise InputError(
        f"{wanted} workers were asked for, the cluster has {has}: "
        "lower --num-workers or start more nodes"
    )


def fewer_resources(
    most: int, nodes: Sequence[Node], fits: Callable[[int], bool], *, use_gpu: bool
) -> Resources | None:
    """The largest number of workers, at most ``most``, that the nodes hold and that ``fits``."""
    for count in range(most, 0, -1):
        if fits(count) and (share := _cores_each(count, nodes, use_gpu=use_gpu)):
            return Resources(count, share, use_gpu)
    return None


def _cores_each(workers: int, nodes: Sequence[Node], *, use_gpu: bool) -> int:
    """The largest share of cores with which the nodes hold all the workers, or 0."""
    for share in range(int(max((node.get("CPU", 0) for node in nodes), default=0)), 0, -1):
        held = [int(node.get("CPU", 0)) // share for node in nodes]
        if use_gpu:
            held = [min(h, int(node.get("GPU", 0))) for h, node in zip(held, nodes, strict=True)]
        if sum(held) >= workers:
            return share
    return 0
