"""Prototypes and losses against sums by hand and closed forms."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.errors import InputError
from training.explain.objective import Prototypes, area_bounds, losses, spherical_kmeans


def directions(num: int, size: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(num, size, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_prototypes_are_what_rounds_by_hand_give() -> None:
    rows = directions(40, 5).double().numpy() * np.linspace(0.5, 3, 40)[:, None]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centres = unit[np.random.default_rng(3).permutation(40)[:4]]
    for _ in range(50):
        members: list[list[NDArray[np.float64]]] = [[] for _ in range(4)]
        for row in unit:
            members[int(np.argmax([row @ centre for centre in centres]))].append(row)
        assert all(members)
        sums = [np.sum(some, axis=0) for some in members]
        centres = np.stack([total / np.linalg.norm(total) for total in sums])
    found = spherical_kmeans(torch.from_numpy(rows).float(), 4, seed=3)
    np.testing.assert_allclose(found, centres, atol=1e-6)


def test_planted_clusters_are_found_whatever_the_length_of_rows() -> None:
    """A prototype that starts without images of its own takes the farthest one."""
    truth = torch.eye(6)
    rows = (truth.repeat(20, 1) + 0.05 * directions(120, 6)) * torch.rand(120, 1).add(0.1)
    starts = [spherical_kmeans(rows, 6, seed=seed) for seed in range(20)]
    best = max(starts, key=lambda found: float((F.normalize(rows, dim=1) @ found.T).amax(1).sum()))
    assert best.max(dim=1).values.min() > 0.99
    twice = torch.cat([truth[:1].repeat(30, 1), truth[1:2]])  # most starts are the same row
    found = spherical_kmeans(twice, 2, seed=0) @ truth[:2].T
    assert found.max(dim=0).values.tolist() == [1, 1]
    with pytest.raises(InputError, match="7 prototypes of 6 images"):
        spherical_kmeans(truth, 7, seed=0)


def test_the_mean_image_is_of_every_prototype_alike() -> None:
    prototypes = Prototypes.of(directions(50, 8) + 3, 5, seed=0)
    nothing = prototypes.log_p(prototypes.mean_D[None], 0.1)
    torch.testing.assert_close(nothing, torch.full((1, 5), -math.log(5)))
    cosine = prototypes.centre_KD[:1] @ prototypes.centre_KD.T
    likely = prototypes.log_p(prototypes.mean_D + 7 * prototypes.centre_KD[:1], 0.2).exp()
    torch.testing.assert_close(likely, (cosine / 0.2).softmax(dim=1))


def test_losses_are_the_sums_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logs = [torch.randn(3, 4, generator=generator).log_softmax(dim=1) for _ in range(3)]
    mask = torch.rand(3, 1, 6, 6, generator=generator)
    found = losses(*logs, mask_B1PP=mask, area=(0.25, 0.5))
    whole, kept, hidden = (x.double().tolist() for x in logs)
    pairs = [(i, k) for i in range(3) for k in range(4)]
    keep = -sum(math.exp(whole[i][k]) * kept[i][k] for i, k in pairs) / 3
    entropy = -sum(math.exp(hidden[i][k]) * hidden[i][k] for i, k in pairs) / 3
    cells = mask[:, 0].double().numpy()
    variation = np.abs(np.diff(cells, axis=1)).mean() + np.abs(np.diff(cells, axis=2)).mean()
    bounds = 0.0
    for image in cells:
        for place, value in enumerate(sorted(image.ravel(), reverse=True)):
            bounds += max(0, (place < 9) - value) + max(0, value - (place < 18))
    expected = (keep, entropy, variation, bounds / 108, cells.mean())
    assert [float(part) for part in found] == pytest.approx(expected, rel=1e-5)


def test_losses_that_are_known() -> None:
    uniform = torch.zeros(2, 7).log_softmax(dim=1)
    sure = torch.tensor([[40.0] + [0] * 6] * 2).log_softmax(dim=1)
    half = torch.zeros(2, 1, 8, 8)
    half[..., :4] = 1
    good, bad = (
        losses(sure, *seen, mask_B1PP=half, area=(0.05, 0.5))
        for seen in ((sure, uniform), (uniform, sure))
    )
    assert (float(good.keep), float(good.entropy)) == pytest.approx((0, math.log(7)), abs=1e-5)
    assert (float(bad.keep), float(bad.entropy)) == pytest.approx((math.log(7), 0), abs=1e-5)
    assert float(good.variation) == pytest.approx(1 / 7)
    assert float(good.area) == 0.5


@pytest.mark.parametrize(
    ("area", "cost"), [(0, 0.25), (0.125, 0.125), (0.25, 0), (0.5, 0), (1, 0.5)]
)
def test_bounds_cost_what_a_mask_keeps_too_little_or_too_much(area: float, cost: float) -> None:
    mask = (torch.arange(64) < 64 * area).float()[torch.randperm(64)].view(1, 1, 8, 8)
    assert float(area_bounds(mask, 0.25, 0.5)) == pytest.approx(cost)
    grey = torch.full((1, 1, 8, 8), 0.3)
    assert float(area_bounds(grey, 0.25, 0.5)) == pytest.approx(0.25 * 0.7 + 0.5 * 0.3)
