"""Batch norm over groups of fixed size, so that statistics do not depend on the number of ranks.

On one device the shuffling of MoCo's keys does nothing: query and key of an image share their
batch statistics and the network can cheat by them. Statistics over shuffled groups mend that, and
make one process with many groups compute what many ranks with one group each compute.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import InputError


class GroupedBatchNorm(_BatchNorm):
    """Batch norm that normalises each run of ``group_size`` consecutive samples by itself.

    Mixed into a class of batch norm, whose parameters, buffers and inference stay. The running
    statistics take in one group after the other.
    """

    group_size: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, ...]; in training B is a multiple of the group size."""
        if not self.training or input.shape[0] == self.group_size:
            return super().forward(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        return torch.cat([self._normalise_group(group) for group in input.split(self.group_size)])

    def _normalise_group(self, group: Tensor) -> Tensor:
        return super().forward(group)


class _PlainGroups(GroupedBatchNorm):
    """For torch's own classes: spares a launch per group and layer that counts the batches."""

    def _normalise_group(self, group: Tensor) -> Tensor:
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


class GroupedBatchNorm1d(_PlainGroups, nn.BatchNorm1d):
    """``BatchNorm1d`` in groups: that of projection heads."""


class GroupedBatchNorm2d(_PlainGroups, nn.BatchNorm2d):
    """``BatchNorm2d`` in groups."""


GROUPED: dict[type[_BatchNorm], type[GroupedBatchNorm]] = {
    nn.BatchNorm1d: GroupedBatchNorm1d,
    nn.BatchNorm2d: GroupedBatchNorm2d,
}
"""Classes of batch norm and their grouped forms; others are added as they are met."""


def grouped_class(base: type[_BatchNorm]) -> type[GroupedBatchNorm]:
    """The grouped form of a class of batch norm, such as timm's with its activation inside."""
    if base not in GROUPED:
        namespace: dict[str, Any] = {"__doc__": f"``{base.__name__}`` in groups."}
        GROUPED[base] = type(f"Grouped{base.__name__}", (GroupedBatchNorm, base), namespace)
    return GROUPED[base]


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
        if isinstance(child, _BatchNorm):
            if not isinstance(child, GroupedBatchNorm):
                child.__class__ = grouped_class(type(child))
            assert isinstance(child, GroupedBatchNorm)
            child.group_size = group_size
    return module
