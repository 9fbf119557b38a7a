import copy

import pytest
import torch
from torch import nn

from pipeline.core.errors import InputError
from training.encoders.batch_norm import group_batch_norm, running_statistics_kept


def networks(group_size: int) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).double()
    grouped = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()).double()
    grouped.load_state_dict(plain.state_dict())
    return plain, group_batch_norm(grouped, group_size)


def test_each_group_is_normalised_by_itself() -> None:
    plain, grouped = networks(4)
    x = torch.randn(12, 3, 8, 8, dtype=torch.float64)
    expected = torch.cat([plain(chunk) for chunk in x.split(4)])
    torch.testing.assert_close(grouped(x), expected)
    for name, value in plain.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(grouped.state_dict()[name], value)


def test_gradients_are_those_of_separate_batches() -> None:
    plain, grouped = networks(4)
    x = torch.randn(8, 3, 8, 8, dtype=torch.float64)
    grouped(x).square().sum().backward()
    torch.cat([plain(chunk) for chunk in x.split(4)]).square().sum().backward()
    for ours, theirs in zip(grouped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_inference_and_state_dict_are_those_of_plain_batch_norm() -> None:
    plain, grouped = networks(4)
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    assert plain.state_dict().keys() == grouped.state_dict().keys()
    assert torch.equal(plain.eval()(x), grouped.eval()(x))


class NormAndReLU(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, NormAndReLU])
def test_other_kinds_of_batch_norm_are_grouped_too(norm: type[nn.Module]) -> None:
    plain, grouped = norm(5), group_batch_norm(norm(5), 4)
    x = torch.randn(12, 5) if norm is nn.BatchNorm1d else torch.randn(12, 5, 3, 3)
    torch.testing.assert_close(grouped(x), torch.cat([plain(chunk) for chunk in x.split(4)]))
    torch.testing.assert_close(grouped.running_var, plain.running_var)
    assert isinstance(copy.deepcopy(grouped), norm)
    assert torch.equal(group_batch_norm(grouped, 6)(x)[:6], plain(x[:6])), "regrouped"


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5))
    x = torch.randn(6, 3, 8, 8)
    assert torch.equal(group_batch_norm(network, 4)(x), network(x))
    assert [type(module) for module in network] == [nn.Conv2d, nn.GroupNorm]


def test_a_batch_of_one_has_its_own_statistics() -> None:
    plain, grouped = networks(4)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), plain(x))


def test_heads_are_grouped_too() -> None:
    plain = nn.BatchNorm1d(5).double()
    grouped = group_batch_norm(nn.BatchNorm1d(5).double(), 3)
    x = torch.randn(6, 5, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), torch.cat([plain(part) for part in x.split(3)]))


@pytest.mark.parametrize("group_size", [2, 4])
def test_running_statistics_can_be_left_alone(group_size: int) -> None:
    plain, grouped = networks(group_size)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for network in (plain, grouped):
        expected = network(x)
        before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
        with running_statistics_kept(network):
            torch.testing.assert_close(network(x), expected)
        assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())
        network(x)
        assert not any(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="group of 1"):
        group_batch_norm(nn.BatchNorm2d(3), 1)
