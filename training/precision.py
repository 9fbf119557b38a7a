"""Which number format autocast uses."""

import torch


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
