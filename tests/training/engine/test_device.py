"""What follows from the device."""

import pytest
import torch

from training.core.context import LocalContext
from training.engine.device import autocast_dtype, num_loader_workers

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_precision_and_loaders_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (num_loader_workers(None, CPU), num_loader_workers(None, CUDA)) == (0, 4)
    assert num_loader_workers(2, CPU) == 2
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    mps, found = LocalContext().device, autocast_dtype("auto", torch.device("mps"))
    assert (mps.type, num_loader_workers(None, mps), found) == ("mps", 4, None)
    for has_bf16 in (True, False):

        def supported(including_emulation: bool = True, has: bool = has_bf16) -> bool:
            return including_emulation or has  # with emulation, every GPU has it

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda has=has_bf16: has)
        for device in (CPU, CUDA):
            assert autocast_dtype("fp32", device) is None
            assert autocast_dtype("bf16", device) is torch.bfloat16
            assert autocast_dtype("fp16", device) is torch.float16
            assert autocast_dtype("auto", device) is (torch.bfloat16 if has_bf16 else None)
