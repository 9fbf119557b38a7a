"""Weights of hard negatives by the rank of their similarity."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.methods.losses import Weigh, info_nce, nt_xent, prime_log_weights


def similarities(seed: int, *size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1


@given(
    st.integers(0, 2**31),
    st.integers(1, 6),
    st.integers(1, 3),
    st.floats(0.0, 3.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 20.0),
)
def test_is_the_slow_reference(
    seed: int, batch: int, negatives: int, power: float, bias: float, scale: float
) -> None:
    similarity = similarities(seed, batch, negatives)
    log_weights = prime_log_weights(similarity, scale=scale, power=power, bias=bias)
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


@given(st.integers(0, 2**31), st.floats(0.0, 3.0), st.floats(0.0, 1.0))
def test_the_total_is_kept_and_harder_ones_count_more(seed: int, power: float, bias: float) -> None:
    similarity = similarities(seed, 5, 2)
    weights = prime_log_weights(similarity, scale=7.0, power=power, bias=bias).exp()
    terms = (7.0 * similarity).exp()
    assert float((weights * terms).sum()) == pytest.approx(float(terms.sum()), rel=1e-12)
    ordered = weights.flatten()[similarity.flatten().argsort()]
    assert bool((ordered.diff() >= -1e-12).all())


@pytest.mark.parametrize(("power", "bias"), [(0.0, 0.0), (2.0, 1.0)])
def test_no_exponent_or_full_bias_changes_nothing(power: float, bias: float) -> None:
    weights = prime_log_weights(similarities(0, 4, 3), scale=5.0, power=power, bias=bias)
    torch.testing.assert_close(weights, torch.zeros_like(weights))


def test_weights_take_no_gradient() -> None:
    similarity = similarities(0, 4, 1).requires_grad_()
    assert not prime_log_weights(similarity, scale=5.0, power=1.0, bias=0.0).requires_grad


def unit(*size: int, seed: int) -> Tensor:
    return functional.normalize(similarities(seed, *size), dim=-1)


def weigh(similarity: Tensor, scale: float | Tensor) -> Tensor:
    return prime_log_weights(similarity, scale=scale, power=1.0, bias=0.1)


@pytest.mark.parametrize("weights", [None, weigh])
def test_both_losses_weigh_the_terms_of_the_denominator(weights: Weigh | None) -> None:
    query, key, queue, hard = (
        unit(4, 8, seed=0),
        unit(4, 8, seed=1),
        unit(9, 8, seed=2),
        unit(4, 2, 8, seed=3),
    )
    loss, similarity = info_nce(
        query, key, queue, temperature=0.2, hard_negatives_BND=hard, rho=1.5, weigh=weights
    )
    assert similarity.hard_BN is not None
    factor = weights(similarity.hard_BN, 7.5).exp() if weights else 1.0
    others = (query @ queue.T / 0.2).exp().sum(dim=1)
    hards = (factor * (7.5 * similarity.hard_BN).exp()).sum(dim=1)
    positive = ((query * key).sum(dim=1) / 0.2).exp()
    expected = -(positive / (positive + others + hards)).log().mean()
    torch.testing.assert_close(loss, expected)

    plain, _ = nt_xent(query, key, temperature=0.2)
    loss, both = nt_xent(
        query,
        key,
        temperature=0.2,
        hard_negatives1_BND=hard,
        hard_negatives2_BND=hard,
        rho=1.5,
        weigh=weights,
    )
    assert both.hard_AN is not None
    factor = weights(both.hard_AN, 7.5).exp() if weights else 1.0
    rows = torch.cat((query, key))
    terms = (rows @ rows.T / 0.2).exp().fill_diagonal_(0).sum(dim=1)
    hards = (factor * (7.5 * both.hard_AN).exp()).sum(dim=1)
    more = ((terms + hards).log() - terms.log()).mean()
    torch.testing.assert_close(loss, plain + more)
