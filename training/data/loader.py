"""The processes that load: batches of global steps, in order, ahead of use."""

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext

from torch.utils.data import Sampler

from pipeline.core.memory import keep_freed_memory
from training.data.carrying import CarryingLoader
from training.data.stream import BatchDataset
from training.views.host_batch import HostBatch


class StepSampler(Sampler[int]):
    """The global steps from ``start`` up to ``stop``, in order."""

    def __init__(self, start: int, stop: int) -> None:
        self._steps = range(start, stop)

    def __iter__(self) -> Iterator[int]:
        return iter(self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def fork_server() -> BaseContext:
    """Processes that begin with everything imported, forked from one that does nothing else.

    Forking a process that runs Ray's or gloo's threads can deadlock, and a process that begins
    with nothing imports torch anew: seconds and 200 MB each.
    """
    context = multiprocessing.get_context("forkserver")
    # Heard before its first use only.
    context.set_forkserver_preload(["__main__", "training.data.stream"])
    return context


def _start_worker(_number: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the training process decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()


def make_loader(
    dataset: BatchDataset, *, start_step: int, stop_step: int, num_workers: int, pin_memory: bool
) -> CarryingLoader[HostBatch]:
    """A loader over the steps of a whole run, so that its workers start only once.

    Args:
        dataset: batches by global step.
        start_step: first step.
        stop_step: step after the last.
        num_workers: loader processes; 0 loads in the training process.
        pin_memory: copy batches into page-locked memory (for CUDA).
    """
    return CarryingLoader(
        dataset,
        sampler=StepSampler(start_step, stop_step),
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=fork_server() if num_workers else None,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_start_worker if num_workers else None,
    )
