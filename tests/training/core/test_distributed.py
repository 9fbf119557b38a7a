"""Collectives in two real gloo processes, and that they cost nothing in one."""

from pathlib import Path

import torch
from torch import distributed as dist
from torch import nn

from tests.ranks import in_ranks
from training.core.distributed import (
    agree,
    average_buffers,
    batch_permutation,
    gather_rows,
    gather_rows_of_any_number,
    gather_rows_with_gradient,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)


def _gradient(number: int) -> torch.Tensor:
    """Rank r's loss weighs row i of the stacked rows by (r + 1) * (i + 1)."""
    rows = torch.ones(2, 3, requires_grad=True)
    stacked = gather_rows_with_gradient(rows)
    weights = torch.arange(1.0, 5.0)[:, None] * (number + 1)
    (stacked * weights).sum().backward()
    assert rows.grad is not None
    return rows.grad


def _in_rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    norm = nn.BatchNorm1d(2)
    assert norm.running_mean is not None
    norm.running_mean.fill_(float(number))
    average_buffers(norm)
    result = {
        "place": torch.tensor([rank(), world_size()]),
        "rows": gather_rows(torch.full((2, 3), float(number))),
        "uneven": gather_rows_of_any_number(torch.full((number + 1, 2), float(number))),
        "mean": mean_over_ranks(torch.tensor([float(number), 1.0])),
        "sums": sum_over_ranks([number + 1, (1 << 64) - 1]),
        "agreed": torch.tensor(agree(10 + number)),
        "averaged": norm.running_mean,
        "gradient": _gradient(number),
    }
    torch.save(result, Path(folder) / f"rank{number}.pt")
    dist.destroy_process_group()


def test_two_ranks(tmp_path: Path) -> None:
    in_ranks(_in_rank, 2, str(tmp_path))
    for number in range(2):
        result = torch.load(tmp_path / f"rank{number}.pt", weights_only=True)
        assert result["place"].tolist() == [number, 2]
        assert result["rows"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
        assert result["uneven"].tolist() == [[0.0] * 2] + [[1.0] * 2] * 2
        assert result["mean"].tolist() == [0.5, 1.0]
        assert result["sums"] == [3, (1 << 64) - 2], "modulo 2^64"
        assert result["agreed"] == 10  # rank 0's word
        assert result["averaged"].tolist() == [0.5, 0.5]
        first = 2 * number + 1  # the sum over both losses: weights 1 + 2
        assert result["gradient"].tolist() == [[3.0 * first] * 3, [3.0 * (first + 1)] * 3]


def test_alone_everything_is_as_it_was() -> None:
    rows = torch.randn(3, 2)
    assert gather_rows(rows) is rows
    assert gather_rows_of_any_number(rows) is rows
    assert gather_rows_with_gradient(rows) is rows
    assert agree(7) == 7
    assert sum_over_ranks([7]) == [7]
    assert torch.equal(mean_over_ranks(rows), rows)


def test_permutations_differ_by_step_and_pass() -> None:
    orders = {
        tuple(batch_permutation(32, seed=s, step=t, branch=b).tolist())
        for s in (0, 1)
        for t in (0, 1)
        for b in (0, 1)
    }
    assert len(orders) == 8
    assert all(sorted(order) == list(range(32)) for order in orders)
