"""Gradient accumulation: a batch goes through the encoder in parts, one after the other."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.encoders.encoder import running_statistics_kept


class InParts(nn.Module):
    """A module that holds the activations of one part of a batch at a time.

    On the way forward it keeps embeddings alone, so the loss is that of the whole batch, with its
    negatives and its shuffles. On the way back each part is computed once more (arXiv 1604.06174;
    of contrastive losses, arXiv 2101.06983), without moving running statistics again.
    """

    def __init__(self, module: nn.Module, num_parts: int) -> None:
        super().__init__()
        self.module, self._num_parts = module, num_parts

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Embeddings [B, D] of the module, as of the whole batch where its groups lie in parts."""
        if not torch.is_grad_enabled():
            whole: Tensor = self.module(images_BCHW)
            return whole
        parts = images_BCHW.chunk(self._num_parts)
        return torch.cat(
            [
                checkpoint(self.module, part, use_reentrant=False, context_fn=self._contexts)
                for part in parts
            ]
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first pass, and around the second one."""
        return nullcontext(), running_statistics_kept(self.module)
