"""What depends on the device: the number format of autocast, and how many processes load."""

import os

import torch

LOADERS_PER_GPU = 4
THREADS = "OMP_NUM_THREADS"


def num_threads(processes: int, cores: int | None = None) -> int:
    """Threads of a process: the cores divided by the training processes of this machine.

    OMP_NUM_THREADS wins where it is set. More threads than cores wait for each other, and their
    number decides the order of float sums: the same number gives the same bits.

    Args:
        processes: training processes of this machine, 1 or more.
        cores: that they share; None: those that this process may use.
    """
    if os.environ.get(THREADS, "").isdecimal():
        return max(1, int(os.environ[THREADS]))
    cores = len(os.sched_getaffinity(0)) if cores is None else cores
    return max(1, cores // processes)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Resolves ``auto``, ``fp32`` or ``bf16`` for a device.

    ``auto`` takes bf16 where the device multiplies bf16 matrices in hardware: CUDA devices that
    support it, and CPUs with AMX tiles.

    Returns:
        ``torch.bfloat16``, or None for no autocast.
    """
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp32":
        return None
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else None


def num_loader_workers(wanted: int | None, device: torch.device) -> int:
    """Resolves None: on a CPU the training process loads itself, since the cores are the same."""
    if wanted is not None:
        return wanted
    return LOADERS_PER_GPU if device.type == "cuda" else 0
