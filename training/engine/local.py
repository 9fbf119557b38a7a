"""The loop without Ray: in this process, or in those that ``torchrun`` started."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist

from pipeline.core.errors import InputError
from pipeline.core.progress import Silence, listening
from training.config.pretrain import PretrainConfig, write_config
from training.core.checkpoint import CheckpointStore
from training.core.distributed import rank, world_size
from training.engine.context import LocalContext
from training.engine.loop import RunResult, pretrain
from training.engine.preflight import preflight, total_steps
from training.engine.stopping import asked_to_stop
from training.engine.threads import counted, threads_beside_others
from training.record.metrics import latest_values


def launch(config: PretrainConfig, context: LocalContext | None = None) -> RunResult:
    """Runs or resumes a pretraining here; the counterpart of ``training.ray.launch.launch``.

    Args:
        config: the run.
        context: device and stop requests; None: the first GPU or the CPU.

    Raises:
        InputError: before anything is written, when something does not fit (``preflight``).
    """
    with counted(), process_group():
        return _launch(config, context)


@contextmanager
def process_group() -> Iterator[None]:
    """While the block runs, this process is one of those that ``torchrun`` started, if it is."""
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


def _launch(config: PretrainConfig, context: LocalContext | None) -> RunResult:
    if world_size() > 1 and config.num_workers not in ("auto", world_size()):
        raise InputError(
            f"num_workers {config.num_workers}, but torchrun started {world_size()} processes: "
            "leave it out"
        )
    info = preflight(config, world_size())
    total = total_steps(config, info)
    done = max(CheckpointStore(config.out / "checkpoints", keep=1).steps(), default=0)
    if done == total:
        return RunResult(done, total, latest_values(config.out), ran=False)
    context = context or LocalContext()
    torch.set_num_threads(threads_beside_others(int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if rank() != 0:
        with asked_to_stop(context.request_stop), listening(Silence()):
            return pretrain(config, context)
    write_config(config.out, config, info.plan_digest)
    with asked_to_stop(context.request_stop):
        return pretrain(config, context)
