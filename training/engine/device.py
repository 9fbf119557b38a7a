"""What follows from the device: the number format of autocast, and loader processes."""

import torch

LOADERS_PER_GPU = 4


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The number format of autocast for the config's precision; None: no autocast.

    ``auto`` is bf16 where the device multiplies bf16 matrices in hardware: CUDA devices that do
    not emulate it, and CPUs with AMX tiles.
    """
    if precision == "auto":
        has_bf16 = False
        if device.type == "cuda":
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        elif device.type == "cpu":
            has_bf16 = torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if has_bf16 else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def num_loader_workers(wanted: int | None, device: torch.device) -> int:
    """The number of loader processes; None: on a CPU, whose cores are busy already, none."""
    fitting = 0 if device.type == "cpu" else LOADERS_PER_GPU
    return fitting if wanted is None else wanted
