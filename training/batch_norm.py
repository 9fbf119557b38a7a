"""Batch norm over groups of fixed size, so that statistics do not depend on the number of ranks.

On one device the shuffling of MoCo's keys does nothing: query and key of an image share their
batch statistics and the network can cheat by them. Statistics over shuffled groups mend that, and
make one process with many groups compute what many ranks with one group each compute.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import InputError


class GroupedBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` that normalises each run of ``group_size`` consecutive samples by itself.

    Parameters, buffers and inference are those of ``BatchNorm2d``; the running statistics take in
    one group after the other.
    """

    group_size: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, H, W]; in training B is a multiple of the group size."""
        if not self.training or input.shape[0] == self.group_size:
            return super().forward(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        return torch.cat(
            [
                functional.batch_norm(
                    group,
                    self.running_mean,
                    self.running_var,
                    self.weight,
                    self.bias,
                    training=True,
                    momentum=self.momentum if self.momentum is not None else 0.1,
                    eps=self.eps,
                )
                for group in input.split(self.group_size)
            ]
        )


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Turns every ``BatchNorm2d`` of ``module`` into a grouped one, in place.

    Args:
        module: network whose parameters and buffers stay as they are.
        group_size: samples per group, at least 2.

    Raises:
        InputError: when a group is too small for statistics.
    """
    if group_size < 2:
        raise InputError(f"a batch-norm group of {group_size} has no statistics: use 2 or more")
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GroupedBatchNorm2d
            assert isinstance(child, GroupedBatchNorm2d)
            child.group_size = group_size
    return module
