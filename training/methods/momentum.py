"""The momentum (key) encoder: a slow copy of the query encoder (He et al., MoCo, 2020)."""

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def momentum_copy(module: M) -> M:
    """Returns a copy of ``module`` that takes no gradients."""
    target = copy.deepcopy(module)
    for parameter in target.parameters():
        parameter.requires_grad_(False)
    return target


@torch.no_grad()
def update_momentum(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """Moves the target's parameters towards the source's, all in a few fused kernels.

    target <- momentum * target + (1 - momentum) * source. Buffers (batch-norm statistics) stay the
    target's own: they come from its own forward passes.

    Args:
        target: module to update in place.
        source: module of the same architecture.
        momentum: share of the old target that is kept, in [0, 1].
    """
    torch._foreach_lerp_(list(target.parameters()), list(source.parameters()), 1 - momentum)
