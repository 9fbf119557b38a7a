"""A function on Ray: one process per device, joined by `torch.distributed`."""

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import torch
from torch import distributed as dist

from training.cluster.nodes import live_nodes
from training.cluster.resources import Resources, Wanted, first_resources

Returned = TypeVar("Returned")


class _Worker:
    """One rank; Ray makes an actor of it."""

    def address(self) -> str:
        """Where the ranks may meet: this node, a free port."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def run(
        self,
        function: Callable[[Any, torch.device], Returned],
        argument: object,
        meeting: str,
        rank: int,
        resources: Resources,
    ) -> Returned:
        """Join the others, call the function, leave."""
        torch.set_num_threads(resources.cpus_per_worker)
        device = torch.device("cuda:0" if resources.use_gpu else "cpu")
        backend = "cpu:gloo,cuda:nccl" if resources.use_gpu else "gloo"
        if resources.num_workers == 1:
            return function(argument, device)
        dist.init_process_group(
            backend, init_method=meeting, rank=rank, world_size=resources.num_workers
        )
        try:
            return function(argument, device)
        finally:
            dist.destroy_process_group()


def run_on_ray(
    function: Callable[[Any, torch.device], Returned], argument: object, num_workers: Wanted
) -> Returned:
    """Call `function(argument, device)` on every rank; it and what it returns pickle.

    Args:
        function: from an importable module.
        argument: its first argument.
        num_workers: ranks; auto: one per GPU of the cluster; without GPUs one per node.

    Returns:
        What rank 0 returned.

    Raises:
        InputError: a cluster that cannot hold so many workers; and whatever the function raises.
    """
    nodes = [node.resources for node in live_nodes()]
    resources = first_resources(num_workers, nodes, lambda _: True)
    kind: Any = ray.remote(_Worker).options(
        num_cpus=resources.cpus_per_worker, num_gpus=1 if resources.use_gpu else 0
    )
    workers = [kind.remote() for _ in range(resources.num_workers)]
    try:
        meeting = ray.get(workers[0].address.remote())
        calls = [
            worker.run.remote(function, argument, meeting, rank, resources)
            for rank, worker in enumerate(workers)
        ]
        waiting = calls
        while waiting:  # the first error ends it: the others may be waiting for that rank
            done, waiting = ray.wait(waiting)
            ray.get(done)
        returned: Returned = ray.get(calls[0])
        return returned
    finally:
        for worker in workers:
            ray.kill(worker)
