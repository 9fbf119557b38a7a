"""The queue of past keys: MoCo's negatives from other images."""

from typing import cast

import torch
from torch import Tensor, nn

from training.methods.moco.settings import check_queue_size


class KeyQueue(nn.Module):
    """A ring of the last K keys, the same on every rank.

    The place of a batch follows from the step alone, so that nothing has to be read back from the
    device. Starts with random unit vectors.

    Args:
        size: K, number of keys; a multiple of the global batch.
        embedding_dim: D.
        batch_size: keys enqueued at a time (the global batch).
        generator: draws the first keys.

    Raises:
        InputError: when the global batch does not divide the queue.
    """

    def __init__(
        self, size: int, embedding_dim: int, *, batch_size: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        check_queue_size(size, batch_size)
        keys_KD = torch.randn(size, embedding_dim, generator=generator)
        self.register_buffer("keys_KD", nn.functional.normalize(keys_KD, dim=1))
        self.batch_size = batch_size

    @property
    def keys(self) -> Tensor:
        """The keys, unit rows [K, D]."""
        return cast(Tensor, self.keys_KD)

    @torch.no_grad()
    def enqueue(self, keys_BD: Tensor, *, step: int) -> None:
        """Replaces the oldest keys by those of global step ``step``."""
        assert keys_BD.shape[0] == self.batch_size, (keys_BD.shape, self.batch_size)
        start = (step * self.batch_size) % self.keys.shape[0]
        self.keys[start : start + self.batch_size] = keys_BD.to(self.keys.dtype)
