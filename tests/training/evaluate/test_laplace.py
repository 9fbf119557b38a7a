"""The Laplace approximation against closed forms, a Hessian by autograd, and quadrature."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.evaluate import laplace as module
from training.evaluate.frozen import fit_logistic
from training.evaluate.laplace import contrasts, laplace, mean_softmax


def made(num: int, dim: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with a 1 behind them, and weights of classes."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num, dim, generator=generator, dtype=torch.float64)
    weights = torch.randn(classes, dim + 1, generator=generator, dtype=torch.float64)
    return F.pad(features, (0, 1), value=1.0), weights


def test_two_classes_and_one_feature_have_their_closed_form() -> None:
    """Logistic regression on the difference of the classes' weights, whose prior has half the
    precision: variance x^T (sum of p (1 - p) x x^T + precision / 2)^-1 x, of a 2 x 2 matrix."""
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(40, generator=generator, dtype=torch.float64)
    labels = (feature + torch.randn(40, generator=generator) > 0).long()
    x = torch.stack([feature, torch.ones_like(feature)], dim=1)
    strength = 0.05
    fitted = fit_logistic(
        feature[:, None], labels, num_classes=2, strength=strength, tolerance=1e-9
    )
    precision = strength * 40
    slope, bias = (fitted[0] - fitted[1]).tolist()
    p = 1 / (1 + np.exp(-(slope * feature.numpy() + bias)))
    a = float((p * (1 - p) * feature.numpy() ** 2).sum()) + precision / 2
    b = float((p * (1 - p) * feature.numpy()).sum())
    d = float((p * (1 - p)).sum()) + precision / 2
    for value in (-2.0, 0.3, 5.0):
        at = torch.tensor([[value, 1.0]], dtype=torch.float64)
        mean, covariance = laplace(fitted, x, at, precision=precision)
        variance = (d * value**2 - 2 * b * value + a) / (a * d - b * b)
        # The contrast is the difference over the root of 2.
        assert float(mean) * math.sqrt(2) == pytest.approx(slope * value + bias, rel=1e-6)
        assert float(covariance) * 2 == pytest.approx(variance, rel=1e-6)


def test_the_hessian_is_that_of_the_loss() -> None:
    (x, weights), (others, _) = made(30, 4, 3), made(6, 4, 3, seed=7)
    q, precision = contrasts(3), 0.7
    labels = torch.arange(30) % 3

    def loss(contrast_weights: torch.Tensor) -> torch.Tensor:
        logits = x @ contrast_weights.view(2, 5).T @ q
        prior = precision / 2 * contrast_weights.square().sum()
        return F.cross_entropy(logits, labels, reduction="sum") + prior

    hessian = torch.autograd.functional.hessian(loss, (q @ weights).flatten())
    posterior = torch.linalg.inv(hessian)
    mean, covariance = laplace(weights, x, others, precision=precision)
    torch.testing.assert_close(mean, others @ (q @ weights).T)
    for row, found in zip(others, covariance, strict=True):
        jacobian = torch.kron(torch.eye(2, dtype=torch.float64), row[None])
        torch.testing.assert_close(found, jacobian @ posterior @ jacobian.T)


def test_of_equal_probabilities_the_kronecker_product_is_exact(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (x, weights), (others, _) = made(30, 4, 3), made(6, 4, 3, seed=7)
    weights[:, :-1] = 0  # the bias alone: every image has the same probabilities
    whole = laplace(weights, x, others, precision=0.3)
    monkeypatch.setattr(module, "MAX_WEIGHTS", 9)
    for one, other in zip(whole, laplace(weights, x, others, precision=0.3), strict=True):
        torch.testing.assert_close(one, other)


def test_the_mean_softmax_is_the_integral(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    for mean, variance in ((0.8, 0.1), (-1.5, 4.0), (3.0, 9.0)):
        at = mean + math.sqrt(variance) * nodes
        expected = float((weights / (1 + np.exp(-at))).sum() / weights.sum())
        given = torch.tensor([[mean]]).double() / math.sqrt(2), torch.tensor([[[variance]]]) / 2
        found = mean_softmax(given[0], given[1].double(), seed=0)
        assert found.sum() == pytest.approx(1)
        # Four standard errors of 500 pairs: 0.01.
        assert float(found[0, 0]) == pytest.approx(expected, abs=0.01)
    means, covariance = torch.tensor([[1.0, -1.0]]), torch.tensor([[[1.0, 2.7], [2.7, 9.0]]])
    drawn = np.random.default_rng(0).multivariate_normal(
        means[0].numpy(), covariance[0].numpy(), size=100_000
    )
    of_draws = (torch.from_numpy(drawn) @ contrasts(3)).softmax(dim=1).mean(dim=0)
    found = mean_softmax(means.double(), covariance.double(), seed=0)
    torch.testing.assert_close(found[0], of_draws, atol=0.02, rtol=0)
    means, roots = made(7, 2, 4)[0], made(7, 8, 1)[0].view(7, 3, 3)
    covariance = roots @ roots.mT + 1e-3 * torch.eye(3).double()
    found = mean_softmax(means, covariance, seed=0)
    assert torch.equal(mean_softmax(means[:2], covariance[:2], seed=0), found[:2])
    monkeypatch.setattr(module, "MAX_DRAWN", 1)  # one image at once
    torch.testing.assert_close(mean_softmax(means, covariance, seed=0), found)
    sure = mean_softmax(means, 1e-8 * covariance, seed=0)
    torch.testing.assert_close(sure, (means @ contrasts(4)).softmax(dim=1), atol=1e-6, rtol=0)
    assert float(found.max(dim=1).values.mean()) < float(sure.max(dim=1).values.mean())
