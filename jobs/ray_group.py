"""A function on Ray: one process per device, joined by `torch.distributed`."""

import socket
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import ray
import torch
from torch import distributed as dist

from pipeline.core.errors import InputError
from pipeline.core.progress import Silence, Standing, listening, say, show
from training.config.resources import Resources, Wanted, first_resources
from training.ray.nodes import live_nodes

Returned = TypeVar("Returned")


POLL_SECONDS = 0.5
GRACE_SECONDS = 5.0
"""How long ranks that are left may take to say why they ended."""


class _Mailbox:
    """Keeps what a rank tells until it is asked for: all lines, and the latest standing."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._standing: Standing | None = None

    def say(self, line: str) -> None:
        """Keeps a line."""
        self._lines.put(line)

    def show(self, standing: Standing) -> None:
        """Keeps it in place of the one before."""
        self._standing = standing

    def empty(self) -> tuple[list[str], Standing | None]:
        """What was told since the last time."""
        lines = [self._lines.get() for _ in range(self._lines.qsize())]
        standing, self._standing = self._standing, None
        return lines, standing


class _Worker:
    """One rank; Ray makes an actor of it, which can be asked for its mail while it works."""

    def __init__(self) -> None:
        self._mailbox = _Mailbox()

    def mail(self) -> tuple[list[str], Standing | None]:
        """What this rank told since the last time."""
        return self._mailbox.empty()

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
        """Join the others, call the function, leave. What the first rank tells is mail."""
        with listening(self._mailbox if rank == 0 else Silence()):
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

    What rank 0 tells meanwhile (`pipeline.core.progress`) is told here.

    Returns:
        What rank 0 returned.

    Raises:
        InputError: a cluster that cannot hold so many workers; and whatever the function raises.
    """
    nodes = [node.resources for node in live_nodes()]
    resources = first_resources(num_workers, nodes, lambda _: True)
    kind: Any = ray.remote(_Worker).options(
        num_cpus=resources.cpus_per_worker,
        num_gpus=1 if resources.use_gpu else 0,
        max_concurrency=2,  # its work, and a question for its mail
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
            done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            try:
                ray.get(done)
            except InputError:
                raise
            except Exception:
                _raise_wrong_input(waiting)
                raise
            _hand_on(ray.get(workers[0].mail.remote()))
        returned: Returned = ray.get(calls[0])
        return returned
    finally:
        for worker in workers:
            ray.kill(worker)


def _raise_wrong_input(calls: list[Any]) -> None:
    """Raises the ``InputError`` that ended another rank, if one did.

    A rank that waits for one that has ended fails too, and may be heard first.
    """
    ended, _ = ray.wait(calls, num_returns=len(calls), timeout=GRACE_SECONDS) if calls else ([], [])
    for call in ended:
        try:
            ray.get(call)
        except InputError:
            raise
        except Exception:
            continue


def _hand_on(mail: tuple[list[str], Standing | None]) -> None:
    lines, standing = mail
    for line in lines:
        say(line)
    if standing is not None:
        show(standing)
