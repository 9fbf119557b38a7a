"""The loop without Ray: in this process, or in those that ``torchrun`` started."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import distributed as dist

from pipeline.core.errors import InputError
from pipeline.core.progress import listening
from pipeline.storage.alone import alone_in
from training.config.file import write_config
from training.config.pretrain import PretrainConfig
from training.core.context import LocalContext
from training.core.distributed import agree, rank, world_size
from training.core.threads import sharing_threads, threads_set_by_user
from training.engine.extend import begin_extension
from training.engine.loop import Trainer
from training.engine.preflight import preflight, total_steps
from training.engine.result import RunResult, recorded_result
from training.engine.stopping import asked_to_stop
from training.record.mirror import working_folder


def launch(config: PretrainConfig, context: LocalContext | None = None) -> RunResult:
    """Runs or resumes a pretraining here; the counterpart of ``training.ray.launch.launch``.

    Without a context it is on the first GPU, or on the CPU.

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``), or
            another process trains there.
    """
    with sharing_threads(fixed=threads_set_by_user()), process_group(), ExitStack() as stack:
        if world_size() > 1 and config.num_workers not in ("auto", world_size()):
            raise InputError(
                f"num_workers {config.num_workers}, but torchrun started {world_size()} processes: "
                "leave it out"
            )
        config, mirror = stack.enter_context(working_folder(config))
        info = preflight(config, world_size())
        before = recorded_result(config, total_steps(config, info), ran=False)
        if before.finished:
            return before
        context = context or LocalContext()
        stack.enter_context(asked_to_stop(context.request_stop))
        if rank() == 0:
            stack.enter_context(alone_in(config.out))
            write_config(config.out, config, info.plan_digest)
            begin_extension(config)
            if mirror is not None:
                mirror.push()
        else:
            stack.enter_context(listening(None))
        agree(0)  # until the checkpoint of an extended run is there
        trainer = Trainer(config, context)
        trainer.mirror = mirror
        return trainer.run()


@contextmanager
def process_group() -> Iterator[None]:
    """While the block runs, a process that ``torchrun`` started is part of its process group."""
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Decisions and evaluation results cross ranks on the CPU, gradients on the device.
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
