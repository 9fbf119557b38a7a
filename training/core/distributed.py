"""Collectives over the ranks; without a process group they cost nothing.

Shapes: B rows of one rank, N rows of all ranks, X any further dimensions.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import FunctionCtx
from torch.nn.parallel import DistributedDataParallel

from training.randomness.draws import sample_seeds


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


@torch.no_grad()
def gather_rows(rows_BX: Tensor) -> Tensor:
    """Stacks the same number of rows from every rank, in the order of the ranks. No gradient."""
    if world_size() == 1:
        return rows_BX
    parts = [torch.empty_like(rows_BX) for _ in range(world_size())]
    dist.all_gather(parts, rows_BX.contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    """Backward every rank gets the sum of all ranks' gradients of its own rows."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows_BX: Tensor) -> Tensor:
        return gather_rows(rows_BX)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient_NX: Tensor) -> Tensor:
        gradient_NX = gradient_NX.contiguous().clone()
        dist.all_reduce(gradient_NX)
        return gradient_NX.chunk(world_size())[rank()]


def gather_rows_with_gradient(rows_BX: Tensor) -> Tensor:
    """``gather_rows`` through which gradients flow back to every rank's rows.

    The gradient is that of the *sum* of the ranks' losses; data parallelism makes it their mean.
    """
    if world_size() == 1:
        return rows_BX
    stacked: Tensor = _GatherRows.apply(rows_BX)
    return stacked


@torch.no_grad()
def gather_rows_of_any_number(rows_MX: Tensor) -> Tensor:
    """Stacks rows of every rank, in the order of the ranks, however many each has."""
    if world_size() == 1:
        return rows_MX
    counts = gather_rows(torch.tensor([len(rows_MX)], device=rows_MX.device)).tolist()
    padded = rows_MX.new_zeros((max(counts), *rows_MX.shape[1:]))
    padded[: len(rows_MX)] = rows_MX
    stacked = gather_rows(padded).split(max(counts))
    return torch.cat([part[:count] for part, count in zip(stacked, counts, strict=True)])


def batch_permutation(size: int, *, seed: int, step: int, branch: int) -> Tensor:
    """The shuffle of a global batch, int64 [size]: a pure function of (seed, step, branch).

    ``branch`` tells the encoder passes apart: keys and hard negatives are shuffled differently.
    """
    order = sample_seeds(seed + (branch + 1) * 0x5851F42D, step, np.arange(size, dtype=np.int64))
    return torch.from_numpy(np.argsort(order, kind="stable"))


def shuffled_images(images_BCHW: Tensor, permutation: Tensor) -> Tensor:
    """This rank's share of the global batch's images in shuffled order; no gradient."""
    mine = permutation.to(images_BCHW.device, non_blocking=True).chunk(world_size())[rank()]
    shuffled = gather_rows(images_BCHW)[mine]
    if images_BCHW.is_contiguous(memory_format=torch.channels_last):
        shuffled = shuffled.contiguous(memory_format=torch.channels_last)
    return shuffled


def restored_rows(rows_BX: Tensor, permutation: Tensor) -> Tensor:
    """The inverse of ``shuffled_images``: the whole global batch in its own order.

    Gradients flow back to every rank's rows.
    """
    permutation = permutation.to(rows_BX.device, non_blocking=True)
    return gather_rows_with_gradient(rows_BX)[torch.argsort(permutation)]


def encode_shuffled(
    encode: Callable[[Tensor], Tensor], images_BCHW: Tensor, permutation: Tensor
) -> Tensor:
    """Embeddings [N, D] of the global batch, encoded in shuffled order and restored to its own.

    Batch statistics then tell nothing about which query belongs to which key (MoCo, section 3.3).
    """
    return restored_rows(encode(shuffled_images(images_BCHW, permutation)), permutation)


def average_buffers(module: nn.Module) -> None:
    """Averages floating-point buffers (batch-norm statistics) over the ranks, in place."""
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.copy_(mean_over_ranks(buffer))


@torch.no_grad()
def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of a tensor over the ranks."""
    if world_size() == 1:
        return values
    dist.all_reduce(values)
    return values / world_size()


def balanced_weights(weights_B: Tensor) -> Tensor:
    """This rank's weights scaled to a mean of 1 over the global batch.

    The mean over the ranks of each rank's mean of weighted losses is then the weighted mean over
    the global batch. Weights of 1 stay exactly 1.
    """
    return weights_B / mean_over_ranks(weights_B.mean())


def sum_over_ranks(numbers: list[int]) -> list[int]:
    """Sums of whole numbers over the ranks, modulo 2^64."""
    if world_size() == 1:
        return numbers
    # On the CPU, where 64-bit sums wrap around.
    words = torch.from_numpy(np.array(numbers, dtype=np.uint64).view(np.int64))
    dist.all_reduce(words)
    return [int(word) for word in words.numpy().view(np.uint64)]


def gathered(value: str) -> list[str]:
    """The values of all ranks, in their order."""
    values = [value] * world_size()
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def agree(value: int) -> int:
    """The value of rank 0, on every rank: decisions that depend on its clock or its signals."""
    if world_size() == 1:
        return value
    box = torch.tensor([value])  # on the CPU: a decision never waits for the device
    dist.broadcast(box, src=0)
    return int(box)


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with gradients that are averaged over the ranks; its buffers stay each rank's."""
    if world_size() == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )
