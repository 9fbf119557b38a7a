"""VICReg: its terms against a slow reference, closed forms, and any number of ranks."""

import pytest
import torch
from torch import Tensor

from tests.training.methods.small import (
    GROUP,
    MOMENT,
    Scenario,
    small_inputs,
    small_method,
    weighted,
)
from training.methods.vicreg.method import vicreg_terms
from training.methods.vicreg.settings import VICRegConfig

CONFIG = VICRegConfig(
    embedding_dim=4, head_layers=2, head_width=5, batch_norm_group=GROUP, covariance=2.0
)


def rows(seed: int, count: int = 7, dimensions: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


def reference(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """The three terms, number by number (arXiv 2105.04906, equations 1 to 4)."""
    count, dimensions = one.shape
    invariance = sum(
        float(one[i, j] - other[i, j]) ** 2 for i in range(count) for j in range(dimensions)
    ) / (count * dimensions)
    variance = covariance = 0.0
    for z in (one, other):
        mean = [sum(float(z[i, j]) for i in range(count)) / count for j in range(dimensions)]
        for a in range(dimensions):
            for b in range(dimensions):
                shared = sum(
                    (float(z[i, a]) - mean[a]) * (float(z[i, b]) - mean[b]) for i in range(count)
                ) / (count - 1)
                if a == b:
                    variance += max(0.0, 1 - (shared + 1e-4) ** 0.5) / dimensions / 2
                else:
                    covariance += shared**2 / dimensions
    return invariance, variance, covariance


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_terms_are_what_is_written(scale: float) -> None:
    one, other = scale * rows(0), scale * rows(1)
    assert [float(term) for term in vicreg_terms(one, other)] == pytest.approx(
        reference(one, other), rel=1e-12
    )


def test_closed_forms() -> None:
    same = torch.full((6, 3), 0.7, dtype=torch.float64)
    terms = vicreg_terms(same, same)
    assert float(terms.invariance) == 0
    assert float(terms.covariance) == pytest.approx(0, abs=1e-30)
    assert float(terms.variance) == pytest.approx(1 - 1e-2)  # sqrt(1e-4)
    spread = 2 * torch.eye(4, dtype=torch.float64)[:, :1]  # one dimension, standard deviation 1
    assert float(vicreg_terms(spread, spread).variance) == 0


def test_weights_of_zero_leave_images_out() -> None:
    """The squares are divided by one less than the number of images, those left out included."""
    one, other = rows(2, count=8), rows(3, count=8)
    weights = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 0], dtype=torch.float64) * 8 / 6
    found, kept = vicreg_terms(one, other, weights), vicreg_terms(one[:6], other[:6])
    assert float(found.invariance) == pytest.approx(float(kept.invariance))
    ratio = (8 / 6) * 5 / 7
    assert float(found.covariance) == pytest.approx(ratio**2 * float(kept.covariance))


def scenarios() -> dict[str, Scenario]:
    inputs = small_inputs(CONFIG)
    return {
        "vicreg": (small_method(CONFIG), inputs),
        "vicreg weights": (small_method(CONFIG), weighted(inputs)),
    }


def test_a_step_is_the_weighted_sum() -> None:
    method, inputs = scenarios()["vicreg"]
    result = method.step(inputs, encode=method.trained, moment=MOMENT)
    terms = [result.metrics[f"{name}_term"] for name in ("invariance", "variance", "covariance")]
    expected = 25 * terms[0] + 25 * terms[1] + 2 * terms[2]
    torch.testing.assert_close(result.loss.detach(), expected)
    result.loss.backward()
    assert all(p.grad is not None for p in method.trained.parameters())
