"""Batch norm over groups of fixed size, so that statistics do not depend on the number of ranks.

On one device the shuffling of MoCo's keys does nothing: query and key of an image share their
batch statistics, by which the network can cheat. Statistics over shuffled groups prevent that, and
one process with many groups computes the same as many ranks with one group each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.errors import InputError


class _Grouped(nn.modules.batchnorm._BatchNorm):
    """Batch norm that normalises each run of ``group_size`` consecutive samples by itself.

    Parameters, buffers and inference are those of plain batch norm; the running statistics take in
    one group after the other.
    """

    group_size: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, ...]; training: B is 1 or a multiple of the group size."""
        if not self.training or input.shape[0] in (1, self.group_size):
            return super().forward(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        return torch.cat([self._normalised(group) for group in input.split(self.group_size)])

    def _normalised(self, group: Tensor) -> Tensor:
        return super().forward(group)


class _PlainGrouped(_Grouped):
    """For torch's own classes: avoids the kernel per group and layer that counts the batches."""

    def _normalised(self, group: Tensor) -> Tensor:
        return functional.batch_norm(
            group,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum if self.momentum is not None else 0.1,
            eps=self.eps,
        )


@cache
def _grouped_class(kind: type[nn.Module]) -> type[_Grouped]:
    """The grouped form of a kind of batch norm, such as timm's with its activation inside."""
    base = _PlainGrouped if kind in (nn.BatchNorm1d, nn.BatchNorm2d) else _Grouped
    namespace: dict[str, Any] = {"__doc__": f"``{kind.__name__}`` over groups."}
    return type(f"Grouped{kind.__name__}", (base, kind), namespace)


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Turns every batch norm of ``module`` into a grouped one, in place.

    A network without any (ConvNeXt has layer norm) stays as it is.

    Args:
        module: network whose parameters and buffers stay as they are.
        group_size: samples per group, at least 2.

    Raises:
        InputError: when a group is too small for statistics.
    """
    if group_size < 2:
        raise InputError(f"a batch-norm group of {group_size} has no statistics: use 2 or more")
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if not isinstance(child, _Grouped):
                child.__class__ = _grouped_class(type(child))
            assert isinstance(child, _Grouped)
            child.group_size = group_size
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Does not update the running statistics of any batch norm while the block runs.

    For passes of images that the exported network is not to be tuned to. In training mode the
    norms still use the batch's own statistics.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
