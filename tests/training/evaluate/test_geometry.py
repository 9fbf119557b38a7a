import math

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import InputError
from training.evaluate.geometry import alignment, effective_rank, uniformity


def features(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))


def test_alignment() -> None:
    first = features(50, 8)
    assert alignment(first, 3 * first) == pytest.approx(0, abs=1e-6)
    assert alignment(first, -first) == pytest.approx(4, rel=1e-5)
    # Independent directions: 2 - 2 * mean cosine, which is 0 but for chance.
    assert alignment(features(4000, 64), features(4000, 64, seed=1)) == pytest.approx(2, abs=0.02)


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
