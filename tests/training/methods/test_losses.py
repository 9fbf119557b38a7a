"""Losses with hard negatives: values computed in numpy, closed forms, slow references."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.core.distributed import balanced_weights
from training.methods.contrastive import Weigh, prime_log_weights
from training.methods.moco.method import info_nce
from training.methods.simclr.method import nt_xent

BATCH, KEPT = 6, [0, 2, 3, 5]
SEEDS = st.integers(0, 2**31)


def unit(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return functional.normalize(numbers, dim=-1)


def similarities(seed: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1


def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
    return prime_log_weights(similarity, scale=scale, power=1.0, bias=0.1)


@pytest.fixture(scope="module")
def moco(golden: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "info_nce.npz").items()}


@pytest.fixture(scope="module")
def simclr(golden: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "nt_xent.npz").items()}


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.07, 0.2])
def test_golden_info_nce(moco: dict[str, Tensor], rho: float, temperature: float) -> None:
    hard = moco["hard"][:, None]
    loss, found = info_nce(
        moco["q"],
        moco["k"],
        moco["queue"],
        temperature=temperature,
        hard_negatives_BND=hard if rho else None,
        rho=rho,
    )
    expected = float(moco[f"loss_rho{rho}_tau{temperature}"])
    assert float(loss) == pytest.approx(expected, rel=1e-13)
    if (rho, temperature) == (2.0, 0.2):
        logits = moco["logits_rho2_tau0.2"] * temperature
        queue_BK, share_B = logits[:, 1:-1], torch.softmax(logits / temperature, dim=1)[:, -1]
        columns = logits[:, 0], queue_BK.mean(), queue_BK.amax(dim=1), logits[:, -1:] / rho, share_B
        for got, wanted in zip(found, columns, strict=True):
            assert got is not None
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.1, 0.2, 0.5])
def test_golden_nt_xent(simclr: dict[str, Tensor], rho: float, temperature: float) -> None:
    hard = simclr["hard1"][:, None], simclr["hard2"][:, None]
    loss, _ = nt_xent(
        simclr["z1"],
        simclr["z2"],
        temperature=temperature,
        hard_negatives_BND=hard if rho else None,
        rho=rho,
    )
    assert float(loss) == pytest.approx(float(simclr[f"loss_rho{rho}_tau{temperature}"]), rel=1e-13)


def slow_loss(
    anchor: Tensor, positive: Tensor, others: list[Tensor], hard: Tensor, rho: float
) -> float:
    """One anchor, one similarity at a time, at temperature 0.1."""
    own = math.exp(float(anchor.dot(positive)) / 0.1)
    total = own + sum(math.exp(float(anchor.dot(row)) / 0.1) for row in others)
    total += sum(math.exp(rho * float(anchor.dot(row)) / 0.1) for row in hard)
    return -math.log(own / total)


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("rho", [0.0, 0.5, 2.0])
def test_losses_are_the_slow_reference(negatives: int, rho: float) -> None:
    """NT-Xent also of a share of the anchors, as each rank computes it."""
    one, other, queue = unit(6, 8), unit(6, 8, seed=1), list(unit(11, 8, seed=2))
    hards = unit(6, negatives, 8, seed=3), unit(6, negatives, 8, seed=4)
    loss, found = info_nce(
        one, other, torch.stack(queue), temperature=0.1, hard_negatives_BND=hards[0], rho=rho
    )
    slow = [slow_loss(one[i], other[i], queue, hards[0][i], rho) for i in range(6)]
    assert float(loss) == pytest.approx(sum(slow) / 6, rel=1e-12)
    assert found.hard_AN is not None
    assert found.hard_AN.shape == (6, negatives)
    views = one, other
    for first, size in ((0, 6), (0, 2), (2, 2), (4, 2)):
        mine = slice(first, first + size)
        loss, found = nt_xent(
            one[mine],
            other[mine],
            temperature=0.1,
            all_view1_GD=one,
            all_view2_GD=other,
            first_row=first,
            hard_negatives_BND=(hards[0][mine], hards[1][mine]),
            rho=rho,
        )
        losses, positives, means, bests = [], [], [], []
        for view in (0, 1):
            for i in range(first, first + size):
                anchor, positive = views[view][i], views[1 - view][i]
                others = [rows[j] for rows in views for j in range(6) if j != i]
                losses.append(slow_loss(anchor, positive, others, hards[view][i], rho))
                positives.append(float(anchor.dot(positive)))
                similar = [float(anchor.dot(row)) for row in others]
                means.append(sum(similar) / len(similar))
                bests.append(max(similar))
        assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-12)
        assert found.positive_A.tolist() == pytest.approx(positives)
        assert float(found.negative) == pytest.approx(sum(means) / len(means))
        assert found.best_negative_A.tolist() == pytest.approx(bests)


@pytest.mark.parametrize("length", [2, 33])
def test_uniform_similarities_give_log_of_their_number(length: int) -> None:
    """Corners of a simplex: every pair of different rows is at the same angle."""
    corners = torch.eye(2 * length, dtype=torch.float64)
    loss, _ = nt_xent(corners[:length], corners[length:], temperature=0.2)
    assert float(loss) == pytest.approx(math.log(2 * length - 1), rel=1e-12)
    loss, _ = info_nce(corners[:1], corners[1:2], corners[2:], temperature=0.2)
    assert float(loss) == pytest.approx(math.log(2 * length - 1), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
def test_identical_embeddings_with_hard_negatives(rho: float) -> None:
    """rho may be a tensor."""
    row = unit(1, 8)
    rows, hard = row.expand(5, 8), row.expand(5, 3, 8)
    expected = pytest.approx(math.log(9 + 3 * math.exp((rho - 1) / 0.1)), rel=1e-12)
    for weight in (rho, torch.tensor(rho)):
        losses = (
            nt_xent(rows, rows, temperature=0.1, hard_negatives_BND=(hard, hard), rho=weight)[0],
            info_nce(
                rows, rows, row.expand(8, 8), temperature=0.1, hard_negatives_BND=hard, rho=weight
            )[0],
        )
        assert [float(loss) for loss in losses] == [expected, expected]


def test_gradients_are_those_of_finite_differences() -> None:
    rows = [unit(3, 4, seed=s).requires_grad_() for s in range(2)]
    rows += [unit(3, 2, 4, seed=s).requires_grad_() for s in (2, 3)]

    def simclr(one: Tensor, other: Tensor, hard1: Tensor, hard2: Tensor) -> Tensor:
        return nt_xent(
            one, other, temperature=0.3, hard_negatives_BND=(hard1, hard2), rho=1.5, log_mass=-2.0
        )[0]

    def moco(query: Tensor, key: Tensor, hard: Tensor) -> Tensor:
        queue = unit(5, 4, seed=9)
        return info_nce(query, key, queue, temperature=0.3, hard_negatives_BND=hard, rho=1.5)[0]

    assert torch.autograd.gradcheck(simclr, rows)
    assert torch.autograd.gradcheck(moco, rows[:3])


def test_autocast_does_not_cost_precision_and_large_logits_do_not_overflow() -> None:
    one, other, queue = (unit(4, 8, seed=s).float() for s in range(3))
    for loss in (
        lambda: nt_xent(one, other, temperature=0.1)[0],
        lambda: info_nce(one, other, queue, temperature=0.1)[0],
    ):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss()
        assert torch.equal(inside, loss())
    rows = torch.eye(4)
    assert float(nt_xent(rows, rows, temperature=1e-4)[0]) == 0.0
    sharp, _ = info_nce(
        rows, rows, -rows, temperature=1e-3, hard_negatives_BND=-rows[:, None], rho=2.0
    )
    assert float(sharp) == 0.0


@given(SEEDS, st.integers(1, 6), st.integers(1, 3), st.floats(0, 3), st.floats(0, 1))
def test_prime_weights_are_the_slow_reference(
    seed: int, batch: int, negatives: int, power: float, bias: float
) -> None:
    """Harder ones count more, and the total is kept."""
    similarity, scale = similarities(seed, batch, negatives).requires_grad_(), 7.0
    log_weights = prime_log_weights(similarity, scale=scale, power=power, bias=bias)
    assert not log_weights.requires_grad
    flat = similarity.flatten().tolist()
    hardest_first = sorted(flat, reverse=True)
    raw = [
        ((1 - bias) * (len(flat) - hardest_first.index(s)) / len(flat) + bias) ** power
        for s in flat
    ]
    terms = [math.exp(scale * s) for s in flat]
    factor = sum(terms) / sum(w * t for w, t in zip(raw, terms, strict=True))
    expected = torch.tensor([w * factor for w in raw], dtype=torch.float64).view_as(similarity)
    torch.testing.assert_close(log_weights.exp(), expected)


@pytest.mark.parametrize("weights", [None, weigh])
def test_both_losses_weigh_the_terms_of_the_denominator(weights: Weigh | None) -> None:
    query, key, queue = unit(4, 8), unit(4, 8, seed=1), unit(9, 8, seed=2)
    hard = unit(4, 2, 8, seed=3)
    loss, similarity = info_nce(
        query, key, queue, temperature=0.2, hard_negatives_BND=hard, rho=1.5, weigh=weights
    )
    assert similarity.hard_AN is not None
    factor = weights(similarity.hard_AN, 7.5).exp() if weights else 1.0
    others = (query @ queue.T / 0.2).exp().sum(dim=1)
    hards = (factor * (7.5 * similarity.hard_AN).exp()).sum(dim=1)
    positive = ((query * key).sum(dim=1) / 0.2).exp()
    expected = -(positive / (positive + others + hards)).log().mean()
    torch.testing.assert_close(loss, expected)

    plain, _ = nt_xent(query, key, temperature=0.2)
    loss, both = nt_xent(
        query, key, temperature=0.2, hard_negatives_BND=(hard, hard), rho=1.5, weigh=weights
    )
    assert both.hard_AN is not None
    factor = weights(both.hard_AN, 7.5).exp() if weights else 1.0
    rows = torch.cat((query, key))
    terms = (rows @ rows.T / 0.2).exp().fill_diagonal_(0).sum(dim=1)
    hards = (factor * (7.5 * both.hard_AN).exp()).sum(dim=1)
    torch.testing.assert_close(loss, plain + ((terms + hards).log() - terms.log()).mean())


Loss = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def moco_loss(query: Tensor, key: Tensor, hard: Tensor, weights: Tensor | None) -> Tensor:
    queue = unit(16, 8, seed=9, dtype=query.dtype)
    return info_nce(
        query, key, queue, temperature=0.2, hard_negatives_BND=hard, rho=2.0, weights_B=weights
    )[0]


def simclr_loss(view1: Tensor, view2: Tensor, hard: Tensor, weights: Tensor | None) -> Tensor:
    pair = hard, hard.flip(1)
    return nt_xent(
        view1, view2, temperature=0.2, hard_negatives_BND=pair, rho=2.0, weights_B=weights
    )[0]


@pytest.mark.parametrize("loss", [moco_loss, simclr_loss])
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


@pytest.mark.parametrize("loss", [moco_loss, simclr_loss])
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
