import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from pipeline.core.errors import InputError
from training.evaluate.geometry import (
    alignment,
    effective_rank,
    effective_rank_interval,
    uniformity,
    uniformity_interval,
)


def features(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_alignment() -> None:
    first = features(50, 8)
    torch.testing.assert_close(alignment(first, 3 * first), torch.zeros(50), atol=1e-6, rtol=0)
    torch.testing.assert_close(alignment(first, -first), torch.full((50,), 4.0))
    # Independent directions: 2 - 2 * mean cosine, which is 0 but for chance.
    apart = alignment(features(4000, 64), features(4000, 64, seed=1))
    assert float(apart.mean()) == pytest.approx(2, abs=0.02)


def test_uniformity_by_hand() -> None:
    x = F.normalize(features(20, 5), dim=1)
    total = [
        math.exp(-2 * float((x[i] - x[j]).square().sum())) for i in range(20) for j in range(i)
    ]
    assert uniformity(7 * x) == pytest.approx(math.log(sum(total) / len(total)), rel=1e-5)
    assert uniformity(torch.ones(6, 4)) == pytest.approx(0)
    assert uniformity(x) < uniformity(x + 1)
    with pytest.raises(InputError, match="wanted 2 or more"):
        uniformity(x[:1])


def test_effective_rank() -> None:
    # Equal eigenvalues in k directions: exactly k.
    axes = torch.eye(6).repeat(4, 1)
    for k in (2, 5):
        spread = torch.cat([axes[:, :k], -axes[:, :k]])
        assert effective_rank(spread[spread.abs().sum(1) > 0] + 3) == pytest.approx(k)
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    rows = torch.diag(shares.sqrt())
    expected = math.exp(-float((shares * shares.log()).sum()))
    assert effective_rank(torch.cat([rows, -rows])) == pytest.approx(expected)
    assert effective_rank(torch.ones(5, 3)) == 0
    assert effective_rank(features(2000, 16)) == pytest.approx(16, rel=0.02)


def covered(
    figure: Callable[..., float], interval: Callable[..., tuple[float, float] | None]
) -> float:
    """Share of intervals over 60 images, of 100 draws of them, that hold the mean of figures."""
    draws = [features(60, 4, seed=seed) * torch.tensor([3.0, 2.0, 1.0, 1.0]) for seed in range(100)]
    truth = sum(figure(draw) for draw in draws) / len(draws)
    found = [between for draw in draws if (between := interval(draw, seed=0)) is not None]
    assert len(found) == len(draws)
    return sum(low <= truth <= high for low, high in found) / len(found)


def test_intervals_cover() -> None:
    # 95 % of 100 draws, give or take: five standard errors of a binomial are 0.11.
    assert covered(uniformity, uniformity_interval) >= 0.84
    assert covered(effective_rank, effective_rank_interval) >= 0.84
    assert effective_rank_interval(features(19, 4), seed=0) is None
    draw = features(200, 4)
    low, high = uniformity_interval(draw, seed=0)
    assert low < uniformity(draw) < high
    # Narrow enough to say something, and narrower with more images.
    assert high - low < 0.5
    more_low, more_high = uniformity_interval(features(800, 4), seed=0)
    assert more_high - more_low < 0.75 * (high - low)
