"""Ranks of a process group, each in a process of its own."""

from collections.abc import Callable
from typing import Any

from torch.multiprocessing.spawn import start_processes


def in_ranks(function: Callable[..., None], ranks: int, *args: Any) -> None:  # noqa: ANN401
    """Calls ``function(rank, *args)`` in every rank, and raises what one of them raises."""
    start_processes(function, args=args, nprocs=ranks, start_method="forkserver")
