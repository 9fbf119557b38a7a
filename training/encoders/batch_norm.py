"""Batch norm over groups of consecutive samples.

Shapes: B batch, C channels, N groups.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

LEAST_NUMBERS = 1 << 19
"""Of a group, from which `_InPlace` is faster."""


class _Grouped(nn.modules.batchnorm._BatchNorm):
    """Batch norm that normalises each run of ``group_size`` consecutive samples by itself.

    Parameters, buffers and inference are those of plain batch norm; the running statistics take in
    one group after the other.
    """

    group_size: int
    of_torch: bool
    """Whether this is torch's own class, without an activation inside."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, ...]; training: B is 1 or a multiple of the group size."""
        whole = super().forward
        if not self.training or input.shape[0] in (1, self.group_size):
            return whole(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        if self.of_torch and input.device.type == "cpu" and not torch.compiler.is_compiling():
            groups = input.shape[0] // self.group_size
            if input.numel() // groups >= LEAST_NUMBERS:
                in_place: Tensor = _InPlace.apply(input, self.group_size, *self._arguments())
                return in_place
        normalised = self._normalised if self.of_torch else whole
        return torch.cat([normalised(group) for group in input.split(self.group_size)])

    def _arguments(self) -> tuple[Any, ...]:
        momentum = self.momentum if self.momentum is not None else 0.1
        return self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps

    def _normalised(self, group: Tensor) -> Tensor:
        """Avoids the kernel per group and layer that counts the batches."""
        weight, bias, mean, var, momentum, eps = self._arguments()
        return functional.batch_norm(
            group, mean, var, weight, bias, training=True, momentum=momentum, eps=eps
        )


class _InPlace(torch.autograd.Function):
    """The groups one by one, each written to its place, on a CPU: the same bits, without copies."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        input: Tensor,
        group_size: int,
        weight: Tensor | None,
        bias: Tensor | None,
        *rest: Any,  # noqa: ANN401
    ) -> Tensor:
        mean, var, momentum, eps = rest
        out = _empty_as(input)
        groups, places = input.split(group_size), out.split(group_size)
        dtype = torch.promote_types(input.dtype, torch.float32)
        saved_N2C = torch.empty(len(groups), 2, input.shape[1], dtype=dtype)
        for group, place, saved in zip(groups, places, saved_N2C, strict=True):
            to = (place, *saved)
            torch.native_batch_norm(group, weight, bias, mean, var, True, momentum, eps, out=to)
        ctx.save_for_backward(input, weight, saved_N2C)
        ctx.group_size, ctx.eps = group_size, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        input, weight, saved_N2C = ctx.saved_tensors
        wanted, needs = _empty_as(input), ctx.needs_input_grad
        parts = (tensor.split(ctx.group_size) for tensor in (input, gradient, wanted))
        summed: list[Tensor | None] = [None, None]
        which = [needs[0], needs[2], needs[3]]
        groups = list(zip(*parts, *saved_N2C.unbind(dim=1), strict=True))
        for group, above, place, mean, invstd in reversed(groups):  # as autograd adds them
            of_group, *more = torch.ops.aten.native_batch_norm_backward(
                above, group, weight, None, None, mean, invstd, True, ctx.eps, which
            )
            if needs[0]:
                place.copy_(of_group)
            summed = [
                new if old is None else old + new for old, new in zip(summed, more, strict=True)
            ]
        return wanted if needs[0] else None, None, *summed, *[None] * 4


def _empty_as(rows: Tensor) -> Tensor:
    """Room for rows in their order of memory; for maps of one pixel it is the usual one."""
    last = rows.ndim == 4 and not rows.is_contiguous()
    last = last and rows.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty(rows.shape, dtype=rows.dtype, memory_format=order)


@cache
def _grouped_class(kind: type[nn.Module]) -> type[_Grouped]:
    """The grouped form of a kind of batch norm, such as timm's with its activation inside."""
    of_torch = kind in (nn.BatchNorm1d, nn.BatchNorm2d)
    return type(f"Grouped{kind.__name__}", (_Grouped, kind), {"of_torch": of_torch})


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Turn every batch norm of a module into one over groups of 2 samples or more, in place.

    Statistics of groups do not depend on the number of ranks, so that one process with many groups
    computes the same as many ranks with one group each. And shuffled groups keep a network from
    telling by their statistics which query belongs to which key, on one device too.

    Parameters and buffers stay. A network without batch norm (ConvNeXt has layer norm) does too.
    """
    assert group_size >= 2, group_size
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if not isinstance(child, _Grouped):
                child.__class__ = _grouped_class(type(child))  # type: ignore[arg-type]
            assert isinstance(child, _Grouped)
            child.group_size = group_size
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of all batch norms alone while the block runs.

    For images that the exported network is not to be tuned to. In training mode the norms still use
    the batch's own statistics.
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
