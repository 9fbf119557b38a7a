"""Load batches of global steps in order, ahead of use, in processes of their own."""

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from typing import Any

from torch.utils.data import DataLoader, Dataset

from pipeline.core.errors import JobError
from pipeline.core.memory import keep_freed_memory
from training.views.inputs import HostBatch


class _ErrorsAsItems(Dataset[HostBatch | JobError]):
    """Returns a `JobError` as an item: torch would raise its text with a traceback in it."""

    def __init__(self, dataset: Dataset[HostBatch]) -> None:
        self._dataset = dataset

    def __getitem__(self, step: int) -> HostBatch | JobError:
        try:
            return self._dataset[step]
        except JobError as error:
            return error


def make_loader(
    dataset: Dataset[HostBatch],
    *,
    start_step: int,
    stop_step: int,
    num_workers: int,
    pin_memory: bool,
) -> Iterator[HostBatch]:
    """Batches of the global steps from `start_step` up to `stop_step`, in order.

    They are those of a whole run, so that the loader processes start only once; with 0 of them the
    training process loads. `pin_memory` copies batches into page-locked memory, for CUDA.

    Raises:
        JobError: the one that the dataset raised, whichever process loads.
    """
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_size=None,
        collate_fn=_unchanged,
        sampler=range(start_step, stop_step),
        num_workers=num_workers,
        pin_memory=pin_memory,
        multiprocessing_context=fork_server() if num_workers else None,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=_start_worker if num_workers else None,
    )
    for item in loader:
        if isinstance(item, JobError):
            raise item
        yield item


def fork_server() -> BaseContext:
    """A context whose processes start with everything imported.

    Forking a process that runs Ray's or gloo's threads can deadlock, and a spawned process imports
    torch anew: seconds and 200 MB each.
    """
    context = multiprocessing.get_context("forkserver")
    # Takes effect before its first use only.
    context.set_forkserver_preload(["__main__", "training.data.stream"])
    return context


def _unchanged(item: Any) -> Any:  # noqa: ANN401  (torch would convert it to lists and tensors)
    return item


def _start_worker(_number: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the training process decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
