"""Ranks of a process group, each in a process of its own."""

from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any

from torch.multiprocessing.spawn import start_processes

IMPORTED = [
    "training.data.stream",
    "training.engine.loop",
    "training.evaluate.run",
    "torch._dynamo",
]
"""What ranks import; each would take seconds for it."""


def in_ranks(function: Callable[..., None], ranks: int, *args: Any) -> None:  # noqa: ANN401
    """Calls ``function(rank, *args)`` in every rank, and raises what one of them raises."""
    forkserver.set_forkserver_preload(["__main__", *IMPORTED])
    forkserver.ensure_running()  # with these, unless a loader has started it
    start_processes(function, args=args, nprocs=ranks, start_method="forkserver")
