"""What runs on a worker of Ray Train.

The driver imports this file too. The training loop takes seconds to import (torchvision): only the
workers import it.
"""

import time
from pathlib import Path

import torch

from pipeline.core.progress import listening
from pipeline.storage.storage import COPIES
from training.config.pretrain import PretrainConfig
from training.core.distributed import rank
from training.record.mirror import STOP_FILE, working_folder
from training.record.relay import Relay

STOP_POLL_SECONDS = 0.5


class RayTrainContext:
    """The loop's view of a Ray Train worker."""

    def __init__(self, out: Path, device: torch.device) -> None:
        self.device = device
        self._stop_file = out / STOP_FILE
        self._asked_at, self._stop = 0.0, False

    def stop_requested(self) -> bool:
        """Looks for the driver's request, at most twice a second."""
        now = time.monotonic()
        if now - self._asked_at >= STOP_POLL_SECONDS:
            self._asked_at, self._stop = now, self._stop_file.exists()
        return self._stop


def pretrain_on_worker(config: PretrainConfig, device: torch.device) -> None:
    """Trains on one rank until the end of the run or a requested stop."""
    from training.engine.loop import Trainer

    with (
        working_folder(config) as (config, mirror),
        listening(Relay(config.out) if rank() == 0 else None),
    ):
        trainer = Trainer(config, RayTrainContext(config.out, device))
        COPIES.cache_clear()  # Ray kills its workers
        trainer.mirror = mirror
        trainer.run()
