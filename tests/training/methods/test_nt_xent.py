"""NT-Xent with hard negatives: values computed in numpy, closed forms, a slow reference."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.methods.losses import nt_xent


@pytest.fixture(scope="module")
def values(golden: Path) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(golden / "nt_xent.npz").items()}


def unit(*size: int, seed: int = 0) -> Tensor:
    numbers = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(numbers, dim=-1)


def slow_nt_xent(
    views: tuple[Tensor, Tensor],
    hards: tuple[Tensor, Tensor] | None,
    *,
    temperature: float,
    rho: float,
    rows: range,
) -> float:
    """One anchor, one similarity at a time; the anchors are the given rows of both views."""
    losses = []
    for view in (0, 1):
        for row in rows:
            anchor = views[view][row]

            def term(other: Tensor, weight: float = 1.0, anchor: Tensor = anchor) -> float:
                return math.exp(weight * float(anchor.dot(other)) / temperature)

            positive = term(views[1 - view][row])
            total = positive
            for image in range(len(views[0])):
                if image != row:
                    total += term(views[0][image]) + term(views[1][image])
            if hards is not None:
                total += sum(term(hard, rho) for hard in hards[view][row])
            losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("temperature", [0.1, 0.2, 0.5])
def test_golden_losses(values: dict[str, Tensor], rho: float, temperature: float) -> None:
    loss, _ = nt_xent(
        values["z1"],
        values["z2"],
        temperature=temperature,
        hard_negatives1_BND=values["hard1"][:, None] if rho else None,
        hard_negatives2_BND=values["hard2"][:, None] if rho else None,
        rho=rho,
    )
    assert float(loss) == pytest.approx(float(values[f"loss_rho{rho}_tau{temperature}"]), rel=1e-13)


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("rho", [0.0, 0.5, 2.0])
def test_is_the_slow_reference(negatives: int, rho: float) -> None:
    views = unit(6, 8), unit(6, 8, seed=1)
    hards = (unit(6, negatives, 8, seed=2), unit(6, negatives, 8, seed=3)) if negatives else None
    loss, logits = nt_xent(
        *views,
        temperature=0.1,
        hard_negatives1_BND=hards and hards[0],
        hard_negatives2_BND=hards and hards[1],
        rho=rho,
    )
    expected = slow_nt_xent(views, hards, temperature=0.1, rho=rho, rows=range(6))
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    if negatives:
        assert logits.hard_AN is not None
        assert logits.hard_AN.shape == (12, negatives)


def test_a_share_of_the_anchors_against_the_global_batch() -> None:
    """What each rank computes: its own anchors, everybody's rows."""
    views, hards = (unit(6, 8), unit(6, 8, seed=1)), (unit(6, 2, 8, seed=2), unit(6, 2, 8, seed=3))
    parts = []
    for first in (0, 2, 4):
        mine = slice(first, first + 2)
        loss, logits = nt_xent(
            views[0][mine],
            views[1][mine],
            temperature=0.2,
            all_view1_GD=views[0],
            all_view2_GD=views[1],
            first_row=first,
            hard_negatives1_BND=hards[0][mine],
            hard_negatives2_BND=hards[1][mine],
            rho=1.5,
        )
        expected = slow_nt_xent(
            views, hards, temperature=0.2, rho=1.5, rows=range(first, first + 2)
        )
        assert float(loss) == pytest.approx(expected, rel=1e-12)
        parts.append(logits)
    whole_loss, whole = nt_xent(*views, temperature=0.2)
    assert float(whole_loss) > 0
    positive = torch.stack([part.positive_A.view(2, 2) for part in parts], dim=1).flatten()
    torch.testing.assert_close(positive, whole.positive_A)
    torch.testing.assert_close(torch.stack([p.negative for p in parts]).mean(), whole.negative)


def test_similarities_by_hand() -> None:
    views = unit(3, 4), unit(3, 4, seed=1)
    _, logits = nt_xent(*views, temperature=0.2)
    rows = torch.cat(views)
    similarity = rows @ rows.T
    positives, negatives, best = [], [], []
    for anchor in range(6):
        partner = (anchor + 3) % 6
        others = [float(similarity[anchor, j]) for j in range(6) if j not in (anchor, partner)]
        positives.append(float(similarity[anchor, partner]))
        negatives += others
        best.append(max(others))
    assert logits.positive_A.tolist() == pytest.approx(positives)
    assert float(logits.negative) == pytest.approx(sum(negatives) / len(negatives))
    assert logits.best_negative_A.tolist() == pytest.approx(best)


@pytest.mark.parametrize("batch", [2, 33])
def test_uniform_similarities_give_log_of_their_number(batch: int) -> None:
    """Corners of a simplex: every pair of different rows is at the same angle."""
    corners = torch.eye(2 * batch, dtype=torch.float64)
    loss, _ = nt_xent(corners[:batch], corners[batch:], temperature=0.2)
    assert float(loss) == pytest.approx(math.log(2 * batch - 1), rel=1e-12)


@pytest.mark.parametrize("rho", [0.0, 1.0, 2.0])
def test_identical_embeddings_with_hard_negatives(rho: float) -> None:
    row = unit(1, 8)
    rows, hard = row.expand(5, 8), row.expand(5, 3, 8)
    loss, _ = nt_xent(
        rows, rows, temperature=0.1, hard_negatives1_BND=hard, hard_negatives2_BND=hard, rho=rho
    )
    assert float(loss) == pytest.approx(math.log(9 + 3 * math.exp((rho - 1) / 0.1)), rel=1e-12)


def test_views_are_treated_alike() -> None:
    one, other = unit(5, 8), unit(5, 8, seed=1)
    hard1, hard2 = unit(5, 1, 8, seed=2), unit(5, 1, 8, seed=3)

    def loss(a: Tensor, b: Tensor, ha: Tensor, hb: Tensor) -> float:
        value, _ = nt_xent(
            a, b, temperature=0.1, hard_negatives1_BND=ha, hard_negatives2_BND=hb, rho=2.0
        )
        return float(value)

    assert loss(one, other, hard1, hard2) == pytest.approx(loss(other, one, hard2, hard1))
    assert loss(one, other, hard1, hard2) != pytest.approx(loss(one, other, hard2, hard1))


def test_gradients_are_those_of_finite_differences() -> None:
    inputs = [unit(3, 4, seed=s).requires_grad_() for s in range(2)]
    inputs += [unit(3, 2, 4, seed=s).requires_grad_() for s in (2, 3)]

    def loss(*rows: Tensor) -> Tensor:
        return nt_xent(
            rows[0],
            rows[1],
            temperature=0.3,
            hard_negatives1_BND=rows[2],
            hard_negatives2_BND=rows[3],
            rho=1.5,
        )[0]

    assert torch.autograd.gradcheck(loss, inputs)


def test_autocast_does_not_cost_precision_and_large_logits_do_not_overflow() -> None:
    one, other = unit(4, 8).float(), unit(4, 8, seed=1).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _ = nt_xent(one, other, temperature=0.1)
    outside, _ = nt_xent(one, other, temperature=0.1)
    assert torch.equal(inside, outside)
    rows = torch.eye(4)
    sharp, _ = nt_xent(rows, rows, temperature=1e-4)
    assert float(sharp) == 0.0
