"""What depends on the device: the number format of autocast, and how many processes load."""

import torch

LOADERS_PER_GPU = 4


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
