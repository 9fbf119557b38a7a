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
from training.methods.contrastive import HardNegatives, Similarities
from training.methods.moco.method import info_nce
from training.methods.prime_weights import prime_log_weights
from training.methods.simclr.method import nt_xent

BATCH, KEPT, TAU = 6, [0, 2, 3, 5], 0.2
Loss = Callable[[Tensor, Tensor, HardNegatives | None, Tensor | None], tuple[Tensor, Similarities]]


def unit(*size: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return functional.normalize(numbers, dim=-1)


def moco(
    one: Tensor, other: Tensor, hard: HardNegatives | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Similarities]:
    queue = unit(11, one.shape[1], seed=9, dtype=one.dtype)
    return info_nce(one, other, queue, temperature=TAU, hard=hard, weights_B=weights)


def simclr(
    one: Tensor, other: Tensor, hard: HardNegatives | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Similarities]:
    return nt_xent(one, other, temperature=TAU, hard=hard, weights_G=weights)


BOTH = pytest.mark.parametrize("loss", [moco, simclr])


def num_anchors(loss: Loss, images: int) -> int:
    return images if loss is moco else 2 * images


def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
    return prime_log_weights(similarity, scale=scale, power=1.0, bias=0.1)


def of_file(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in np.load(path).items()}


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
def test_goldens(golden: Path, rho: float) -> None:
    data = of_file(golden / "info_nce.npz")
    hard = HardNegatives(data["hard"][:, None], rho) if rho else None
    for temperature in (0.07, 0.2):
        loss, found = info_nce(
            data["q"], data["k"], data["queue"], temperature=temperature, hard=hard
        )
        expected = float(data[f"loss_rho{rho}_tau{temperature}"])
        assert float(loss) == pytest.approx(expected, rel=1e-13)
    if rho == 2.0:
        logits = data["logits_rho2_tau0.2"] * 0.2
        queue_BK, share_B = logits[:, 1:-1], torch.softmax(logits / 0.2, dim=1)[:, -1]
        columns = logits[:, 0], queue_BK.mean(), queue_BK.amax(dim=1), logits[:, -1:] / rho, share_B
        for got, wanted in zip(found, columns, strict=True):
            assert got is not None
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)
    data = of_file(golden / "nt_xent.npz")
    rows = torch.cat((data["hard1"], data["hard2"]))[:, None]
    hard = HardNegatives(rows, rho) if rho else None
    for temperature in (0.1, 0.2, 0.5):
        loss, _ = nt_xent(data["z1"], data["z2"], temperature=temperature, hard=hard)
        expected = float(data[f"loss_rho{rho}_tau{temperature}"])
        assert float(loss) == pytest.approx(expected, rel=1e-13)


def slow_loss(
    anchor: Tensor, positive: Tensor, others: list[Tensor], hard_terms: list[float]
) -> float:
    """One anchor, one similarity at a time."""
    own = math.exp(float(anchor.dot(positive)) / TAU)
    total = own + sum(math.exp(float(anchor.dot(row)) / TAU) for row in others)
    return -math.log(own / (total + sum(hard_terms)))


@pytest.mark.parametrize("own", [slice(None), slice(0, 2), slice(2, 4), slice(4, 6)])
@pytest.mark.parametrize(("negatives", "rho"), [(0, 1.0), (1, 0.0), (3, 0.5), (2, 2.0)])
@pytest.mark.parametrize("weights", [None, weigh])
@BOTH
def test_losses_are_the_slow_reference(
    loss: Loss,
    own: slice,
    negatives: int,
    rho: float,
    weights: Callable[[Tensor, float | Tensor], Tensor] | None,
) -> None:
    """NT-Xent also of a share of the anchors, as each rank computes it."""
    views = unit(6, 8), unit(6, 8, seed=1)
    images = range(6)[own]
    anchors = [(view, i) for view in ((0,) if loss is moco else (0, 1)) for i in images]
    rows = unit(len(anchors), negatives, 8, seed=3)
    mass = 0.0 if rho == 2.0 else -0.7
    hard = HardNegatives(rows, rho, mass, weights if negatives else None)
    value, found = (
        moco(views[0][own], views[1][own], hard)
        if loss is moco
        else nt_xent(*views, temperature=TAU, own=own, hard=hard)
    )
    similar = torch.stack([row @ views[v][i] for row, (v, i) in zip(rows, anchors, strict=True)])
    factors = torch.ones_like(similar)
    if weights is not None and negatives:
        factors = weights(similar, rho / TAU).exp()
    terms = factors * (rho * similar / TAU + mass).exp()
    losses, positives, means, bests, shares = [], [], [], [], []
    for number, (view, i) in enumerate(anchors):
        anchor, positive = views[view][i], views[1 - view][i]
        others = [rows[j] for rows in views for j in range(6) if j != i]
        others = list(unit(11, 8, seed=9)) if loss is moco else others
        losses.append(slow_loss(anchor, positive, others, terms[number].tolist()))
        positives.append(float(anchor.dot(positive)))
        to_others = [float(anchor.dot(row)) for row in others]
        means.append(sum(to_others) / len(to_others))
        bests.append(max(to_others))
        shares.append(float(terms[number].sum()) * math.exp(-losses[-1] - positives[-1] / TAU))
    assert float(value) == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert found.positive_A.tolist() == pytest.approx(positives)
    assert float(found.negative) == pytest.approx(sum(means) / len(means))
    assert found.best_negative_A.tolist() == pytest.approx(bests)
    assert found.hard_AN is not None
    assert found.hard_share_A is not None
    torch.testing.assert_close(found.hard_AN, similar)
    assert found.hard_share_A.tolist() == pytest.approx(shares)


@pytest.mark.parametrize("length", [2, 33])
def test_uniform_similarities_give_log_of_their_number(length: int) -> None:
    """Corners of a simplex: every pair of different rows is at the same angle."""
    corners = torch.eye(2 * length, dtype=torch.float64)
    loss, _ = nt_xent(corners[:length], corners[length:], temperature=TAU)
    assert float(loss) == pytest.approx(math.log(2 * length - 1), rel=1e-12)
    loss, _ = info_nce(corners[:1], corners[1:2], corners[2:], temperature=TAU)
    assert float(loss) == pytest.approx(math.log(2 * length - 1), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
def test_identical_embeddings_with_hard_negatives(rho: float) -> None:
    """rho may be a tensor."""
    row = unit(1, 8)
    rows, queue, hard = row.expand(5, 8), row.expand(8, 8), row.expand(10, 3, 8)
    expected = pytest.approx(math.log(9 + 3 * math.exp((rho - 1) / 0.1)), rel=1e-12)
    for weight in (rho, torch.tensor(rho)):
        own = HardNegatives(hard, weight)
        assert float(nt_xent(rows, rows, temperature=0.1, hard=own)[0]) == expected
        own = HardNegatives(hard[:5], weight)
        assert float(info_nce(rows, rows, queue, temperature=0.1, hard=own)[0]) == expected


@BOTH
def test_gradients_are_those_of_finite_differences(loss: Loss) -> None:
    rows = [unit(3, 4, seed=s).requires_grad_() for s in range(2)]
    rows.append(unit(num_anchors(loss, 3), 2, 4, seed=2).requires_grad_())

    def value(one: Tensor, other: Tensor, hard: Tensor) -> Tensor:
        return loss(one, other, HardNegatives(hard, 1.5, -2.0), None)[0]

    assert torch.autograd.gradcheck(value, rows)


@BOTH
def test_autocast_does_not_cost_precision(loss: Loss) -> None:
    one, other = (unit(4, 8, seed=s).float() for s in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = loss(one, other, None, None)
    assert torch.equal(inside, loss(one, other, None, None)[0])


def test_large_logits_do_not_overflow() -> None:
    rows = torch.eye(4)
    assert float(nt_xent(rows, rows, temperature=1e-4)[0]) == 0.0
    hard = HardNegatives(-rows[:, None], 2.0)
    assert float(info_nce(rows, rows, -rows, temperature=1e-3, hard=hard)[0]) == 0.0


@given(
    st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 3), st.floats(0, 3), st.floats(0, 1)
)
def test_prime_weights_are_the_slow_reference(
    seed: int, batch: int, negatives: int, power: float, bias: float
) -> None:
    """Harder ones count more, and the total is kept."""
    generator, scale = torch.Generator().manual_seed(seed), 7.0
    similarity = 2 * torch.rand(batch, negatives, generator=generator, dtype=torch.float64) - 1
    log_weights = prime_log_weights(
        similarity.requires_grad_(), scale=scale, power=power, bias=bias
    )
    assert not log_weights.requires_grad
    flat = similarity.flatten().tolist()
    own = [sorted(row, reverse=True) for row in similarity.tolist()]
    hardest_first = [s for nth in zip(*own, strict=True) for s in sorted(nth, reverse=True)]
    raw = [
        ((1 - bias) * (len(flat) - hardest_first.index(s)) / len(flat) + bias) ** power
        for s in flat
    ]
    terms = [math.exp(scale * s) for s in flat]
    factor = sum(terms) / sum(w * t for w, t in zip(raw, terms, strict=True))
    expected = torch.tensor([w * factor for w in raw], dtype=torch.float64).view_as(similarity)
    torch.testing.assert_close(log_weights.exp(), expected)


def test_prime_weights_rank_within_an_image_first_and_then_among_equals() -> None:
    def order(similarity: list[list[float]]) -> list[float]:
        rows = torch.tensor(similarity, dtype=torch.float64)
        weights = prime_log_weights(rows, scale=1.0, power=1.0, bias=0.0).flatten()
        return rows.flatten()[weights.argsort(descending=True)].tolist()

    assert order([[0.9, 0.8], [0.5, 0.1]]) == [0.9, 0.5, 0.8, 0.1]
    assert order([[0.1, 0.5], [0.8, 0.9]]) == [0.9, 0.5, 0.8, 0.1]
    assert order([[0.9], [0.8], [0.95]]) == [0.95, 0.9, 0.8]  # one of each image


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_one_change_no_bit(loss: Loss, dtype: torch.dtype) -> None:
    for seed in range(20):
        results = []
        hard = HardNegatives(unit(num_anchors(loss, BATCH), 2, 8, seed=seed, dtype=dtype), 2.0)
        for weights in (None, balanced_weights(torch.ones(BATCH))):
            one, other = (
                unit(BATCH, 8, seed=seed + n, dtype=dtype).requires_grad_() for n in (9, 50)
            )
            value, _ = loss(one, other, hard, weights)
            value.backward()
            results.append((value.detach(), one.grad, other.grad))
        for plain, weighted in zip(*results, strict=True):
            assert plain is not None
            assert weighted is not None
            assert torch.equal(plain, weighted)


@BOTH
def test_a_weight_of_zero_is_a_smaller_batch(loss: Loss) -> None:
    one, other = unit(BATCH, 8, seed=1), unit(BATCH, 8, seed=2)
    hard = unit(num_anchors(loss, BATCH), 2, 8, seed=3)
    kept_anchors = [n for n in range(len(hard)) if n % BATCH in KEPT]
    weights = torch.zeros(BATCH, dtype=torch.float64)
    weights[KEPT] = 1
    rows = [row.clone().requires_grad_() for row in (one, other)]
    weighted, _ = loss(rows[0], rows[1], HardNegatives(hard, 2.0), balanced_weights(weights))
    alone = [row[KEPT].clone().requires_grad_() for row in (one, other)]
    smaller, _ = loss(alone[0], alone[1], HardNegatives(hard[kept_anchors], 2.0), None)
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
    views = unit(BATCH, 8, seed=1), unit(BATCH, 8, seed=2)
    weights = balanced_weights(torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64))
    halves = [
        nt_xent(*views, temperature=TAU, own=part, weights_G=weights)[0]
        for part in (slice(0, 3), slice(3, 6))
    ]
    kept, _ = simclr(views[0][KEPT], views[1][KEPT])
    torch.testing.assert_close(torch.stack(halves).mean(), kept, rtol=1e-12, atol=0)
