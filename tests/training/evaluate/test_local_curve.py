"""How far a mask reaches: networks of 1 x 1 and of 3 x 3 convolutions, and distances by hand."""

import pytest
import torch
from torch import Tensor, nn

from training.evaluate.local_curve import MOST_CELLS, cosines_by_distance, feature_map


def network_of(kernel: int, depth: int = 1, stride: int = 1) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        width = 3 if number == 0 else 6
        layers += [nn.Conv2d(width, 6, kernel, stride, padding=kernel // 2), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def curve(network: nn.Module, side: int = 12) -> dict[int, list[float]]:
    """Of two views whose top left 4 x 4 pixels are masked."""
    views = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(2, 1, side, side, dtype=torch.bool)
    mask[:, :, :4, :4] = True

    def features(seen: Tensor) -> Tensor:
        found = feature_map(network, lambda: network(seen))
        assert found is not None
        return found

    with torch.no_grad():
        return cosines_by_distance(features(views), features(views.masked_fill(mask, 0)), mask)


def test_a_network_of_1_x_1_gives_1_everywhere_off_the_mask() -> None:
    found = curve(network_of(1, depth=3))
    assert list(found) == list(range(MOST_CELLS + 1))  # 12 - 4 = 8
    assert max(found.pop(0)) < 0.99
    for means in found.values():
        assert means == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_mask_reaches_as_far_as_the_receptive_field(depth: int) -> None:
    for distance, means in curve(network_of(3, depth)).items():
        unchanged = all(mean == pytest.approx(1.0, abs=1e-6) for mean in means)
        assert unchanged == (distance > depth)


def test_cells_are_those_of_the_last_map_and_partly_masked_ones_count_as_masked() -> None:
    found = curve(network_of(1, stride=3))  # 4 x 4 cells of 3 x 3 pixels: 2 x 2 are touched
    assert list(found) == [0, 1, 2]
    assert [len(means) for means in found.values()] == [2, 2, 2]


def test_without_a_map_or_a_mask_there_is_no_curve() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    assert feature_map(flat, lambda: flat(torch.zeros(1, 3, 2, 2))) is None
    assert not flat._forward_hooks
    none = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    assert cosines_by_distance(torch.ones(1, 2, 4, 4), torch.ones(1, 2, 4, 4), none) == {}
