"""InfoNCE with hard negatives: values computed in numpy, closed forms, a slow reference."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.methods.losses import info_nce


@pytest.fixture(scope="module")
def values(golden: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "info_nce.npz").items()}


def unit(*size: int, seed: int = 0) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(numbers, dim=-1)


def slow_info_nce(
    query: Tensor, key: Tensor, queue: Tensor, hard: Tensor, *, temperature: float, rho: float
) -> float:
    """One query, one similarity at a time."""
    losses = []
    for index in range(len(query)):
        own = math.exp(float(query[index].dot(key[index])) / temperature)
        others = [math.exp(float(query[index].dot(row)) / temperature) for row in queue]
        hards = [math.exp(rho * float(query[index].dot(row)) / temperature) for row in hard[index]]
        losses.append(-math.log(own / (own + sum(others) + sum(hards))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_golden_losses(values: dict[str, Tensor], rho: float, temperature: float) -> None:
    hard = values["hard"][:, None] if rho else None
    loss, _ = info_nce(
        values["q"],
        values["k"],
        values["queue"],
        temperature=temperature,
        hard_negatives_BND=hard,
        rho=rho,
    )
    expected = float(values[f"loss_rho{rho}_tau{temperature}"])
    assert float(loss) == pytest.approx(expected, rel=1e-13)


def test_golden_logits(values: dict[str, Tensor]) -> None:
    _, logits = info_nce(
        values["q"],
        values["k"],
        values["queue"],
        temperature=0.2,
        hard_negatives_BND=values["hard"][:, None],
        rho=2.0,
    )
    assert logits.hard_BN is not None
    columns = (logits.positive_B[:, None], logits.queue_BK, 2.0 * logits.hard_BN)
    got = torch.cat(columns, dim=1) / 0.2
    torch.testing.assert_close(got, values["logits_rho2_tau0.2"], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("rho", [0.0, 0.5, 2.0])
def test_is_the_slow_reference(negatives: int, rho: float) -> None:
    query, key, queue = unit(5, 8), unit(5, 8, seed=1), unit(11, 8, seed=2)
    hard = unit(5, negatives, 8, seed=3)
    loss, logits = info_nce(query, key, queue, temperature=0.1, hard_negatives_BND=hard, rho=rho)
    expected = slow_info_nce(query, key, queue, hard, temperature=0.1, rho=rho)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert logits.hard_BN is not None
    assert logits.hard_BN.shape == (5, negatives)


@pytest.mark.parametrize("length", [1, 64])
def test_uniform_similarities_give_log_of_their_number(length: int) -> None:
    """Every key is at the same angle to every query."""
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(4, 2)
    other = torch.tensor([[0.6, 0.8]], dtype=torch.float64)
    loss, _ = info_nce(query, other.expand(4, 2), other.expand(length, 2), temperature=0.2)
    assert float(loss) == pytest.approx(math.log(length + 1), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
def test_identical_embeddings_with_hard_negatives(rho: float) -> None:
    row = unit(1, 8)
    hard = row.expand(4, 2, 8)
    loss, _ = info_nce(
        row.expand(4, 8),
        row.expand(4, 8),
        row.expand(16, 8),
        temperature=0.1,
        hard_negatives_BND=hard,
        rho=rho,
    )
    assert float(loss) == pytest.approx(math.log(17 + 2 * math.exp((rho - 1) / 0.1)), rel=1e-12)


def test_rho_may_be_a_tensor() -> None:
    query, key, queue, hard = unit(4, 8), unit(4, 8, seed=1), unit(9, 8, seed=2), unit(4, 1, 8)
    number, _ = info_nce(query, key, queue, temperature=0.1, hard_negatives_BND=hard, rho=0.75)
    tensor, _ = info_nce(
        query, key, queue, temperature=0.1, hard_negatives_BND=hard, rho=torch.tensor(0.75)
    )
    assert torch.equal(number, tensor)


def test_the_gradient_draws_to_the_key_and_away_from_the_negative() -> None:
    query = unit(4, 8).requires_grad_()
    key, queue, hard = unit(4, 8, seed=1), unit(9, 8, seed=2), unit(4, 1, 8, seed=3)
    loss, _ = info_nce(query, key, queue, temperature=0.1, hard_negatives_BND=hard, rho=2.0)
    (gradient,) = torch.autograd.grad(loss, query)
    moved = functional.normalize((query - 0.01 * gradient).detach(), dim=1)
    after, logits = info_nce(moved, key, queue, temperature=0.1, hard_negatives_BND=hard, rho=2.0)
    assert float(after) < float(loss.detach())
    assert logits.hard_BN is not None
    before = (query.detach() * hard[:, 0]).sum()
    assert float(logits.hard_BN.sum()) < float(before)


def test_large_logits_do_not_overflow() -> None:
    row = unit(1, 8).float()
    loss, _ = info_nce(row, row, -row, temperature=1e-3, hard_negatives_BND=-row[None], rho=2.0)
    assert float(loss) == 0.0


def test_autocast_does_not_cost_precision() -> None:
    query, key, queue = unit(4, 8).float(), unit(4, 8, seed=1).float(), unit(9, 8, seed=2).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = info_nce(query, key, queue, temperature=0.1)
    outside, _ = info_nce(query, key, queue, temperature=0.1)
    assert torch.equal(inside, outside)
