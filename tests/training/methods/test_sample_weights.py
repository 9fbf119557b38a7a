"""Weights of samples in the losses: 1 changes no bit, 0 is as if the sample were not there."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.core.distributed import balanced_weights
from training.methods.losses import info_nce, nt_xent

BATCH, KEPT = 6, [0, 2, 3, 5]


def unit(*size: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return functional.normalize(numbers, dim=-1)


def moco(query: Tensor, key: Tensor, hard: Tensor, weights: Tensor | None) -> Tensor:
    return info_nce(
        query,
        key,
        unit(16, 8, seed=9, dtype=query.dtype),
        temperature=0.2,
        hard_negatives_BND=hard,
        rho=2.0,
        weights_B=weights,
    )[0]


def simclr(view1: Tensor, view2: Tensor, hard: Tensor, weights: Tensor | None) -> Tensor:
    return nt_xent(
        view1,
        view2,
        temperature=0.2,
        hard_negatives1_BND=hard,
        hard_negatives2_BND=hard.flip(1),
        rho=2.0,
        weights_B=weights,
    )[0]


Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


@pytest.mark.parametrize("loss", [moco, simclr])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(loss: Loss, dtype: torch.dtype) -> None:
    for seed in range(20):
        results = []
        for weights in (None, balanced_weights(torch.ones(BATCH))):
            one, other = (
                unit(BATCH, 8, seed=seed + n, dtype=dtype).requires_grad_() for n in (0, 50)
            )
            value = loss(one, other, unit(BATCH, 2, 8, seed=seed + 99, dtype=dtype), weights)
            value.backward()
            results.append((value.detach(), one.grad, other.grad))
        for plain, weighted in zip(*results, strict=True):
            assert plain is not None
            assert weighted is not None
            assert torch.equal(plain, weighted)


@pytest.mark.parametrize("loss", [moco, simclr])
def test_a_weight_of_zero_is_a_smaller_batch(loss: Loss) -> None:
    one, other = unit(BATCH, 8, seed=1), unit(BATCH, 8, seed=2)
    hard = unit(BATCH, 2, 8, seed=3)
    weights = torch.zeros(BATCH, dtype=torch.float64)
    weights[KEPT] = 1
    rows = [row.clone().requires_grad_() for row in (one, other)]
    weighted = loss(rows[0], rows[1], hard, balanced_weights(weights))
    alone = [row[KEPT].clone().requires_grad_() for row in (one, other)]
    smaller = loss(alone[0], alone[1], hard[KEPT], None)
    torch.testing.assert_close(weighted, smaller, rtol=1e-12, atol=0)
    weighted.backward()
    smaller.backward()
    for row, kept in zip(rows, alone, strict=True):
        assert row.grad is not None
        assert kept.grad is not None
        torch.testing.assert_close(row.grad[KEPT], kept.grad, rtol=1e-10, atol=1e-14)
        assert not row.grad[[1, 4]].any()


def test_nt_xent_takes_the_weights_of_other_ranks() -> None:
    """A share of the anchors against the global batch, in which another rank skipped one."""
    one, other = unit(BATCH, 8, seed=1), unit(BATCH, 8, seed=2)
    weights = balanced_weights(torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64))
    halves = [
        nt_xent(
            one[part],
            other[part],
            temperature=0.2,
            all_view1_GD=one,
            all_view2_GD=other,
            first_row=part.start,
            weights_B=weights[part],
            all_weights_G=weights,
        )[0]
        for part in (slice(0, 3), slice(3, 6))
    ]
    kept, _ = nt_xent(one[KEPT], other[KEPT], temperature=0.2)
    torch.testing.assert_close(torch.stack(halves).mean(), kept, rtol=1e-12, atol=0)
