"""The loop's view of its launcher. Ranks and collectives come from ``torch.distributed``."""

from typing import Protocol

import torch

from training.core.distributed import rank


class TrainContext(Protocol):
    """What a launcher gives the loop.

    Attributes:
        device: of this rank.
    """

    device: torch.device

    def stop_requested(self) -> bool:
        """Whether the run is to be checkpointed and ended; asked of rank 0 after every step."""


def own_device() -> torch.device:
    """This rank's GPU, of NVIDIA or AMD, else of Apple (MPS); the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device(f"cuda:{rank() % max(1, torch.cuda.device_count())}")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


class LocalContext:
    """One process on this machine, or one of several that ``torchrun`` started; no Ray."""

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or own_device()
        self._stop = False

    def request_stop(self) -> None:
        """Asks the loop to write a checkpoint and end."""
        self._stop = True

    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop
