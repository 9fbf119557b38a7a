import copy

import pytest
import torch
from torch import nn

from training.encoders import encoder
from training.encoders.encoder import group_batch_norm, running_statistics_kept


class NormAndReLU(nn.BatchNorm2d):
    """A batch norm with its activation inside, as timm has them."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


def networks(
    group_size: int, norm: type[nn.Module] = nn.BatchNorm2d
) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    before = nn.Conv2d(3, 5, 3) if norm is not nn.BatchNorm1d else nn.Linear(3, 5)
    plain = nn.Sequential(before, norm(5), nn.ReLU()).double()
    return plain, group_batch_norm(copy.deepcopy(plain), group_size)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, NormAndReLU])
def test_each_group_is_a_batch_of_its_own(norm: type[nn.Module]) -> None:
    plain, grouped = networks(4, norm)
    x = torch.randn((12, 3) if norm is nn.BatchNorm1d else (12, 3, 8, 8), dtype=torch.float64)
    result, expected = grouped(x), torch.cat([plain(chunk) for chunk in x.split(4)])
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()
    expected.square().sum().backward()
    for ours, theirs in zip(grouped.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert plain.state_dict().keys() == grouped.state_dict().keys()
    for name, value in plain.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(grouped.state_dict()[name], value)
    torch.testing.assert_close(copy.deepcopy(grouped).eval()(x), plain.eval()(x))
    assert isinstance(grouped.get_submodule("1"), norm)
    regrouped, plain = group_batch_norm(grouped.train(), 6), plain.train()
    torch.testing.assert_close(regrouped(x)[:6], plain(x[:6]))


def test_a_batch_of_one_has_its_own_statistics() -> None:
    plain, grouped = networks(4)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(grouped(x), plain(x))


def test_a_network_without_batch_norm_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GroupNorm(1, 5))
    x = torch.randn(6, 3, 8, 8)
    assert torch.equal(group_batch_norm(network, 4)(x), network(x))
    assert [type(module) for module in network] == [nn.Conv2d, nn.GroupNorm]


@pytest.mark.parametrize("group_size", [2, 4])
def test_running_statistics_can_be_left_alone(group_size: int) -> None:
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for network in networks(group_size):
        expected = network(x)
        before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
        with running_statistics_kept(network):
            torch.testing.assert_close(network(x), expected)
        assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())
        network(x)
        assert not any(torch.equal(network.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 5, 6, 7), (12, 5, 1, 1), (12, 5)])
def test_groups_in_their_places_have_the_bits_of_groups_put_together(
    order: torch.memory_format,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoder, "LEAST_NUMBERS", 1)
    torch.manual_seed(0)
    is_image = len(shape) == 4
    x = torch.randn(shape).to(dtype)
    x = x.to(memory_format=order) if is_image else x
    norm = nn.BatchNorm2d(5) if is_image else nn.BatchNorm1d(5)
    nn.init.normal_(norm.weight)
    grouped = group_batch_norm(copy.deepcopy(norm), 4)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    result = grouped(ours)
    expected = torch.cat([norm(group) for group in theirs.split(4)])
    assert torch.equal(result, expected)
    assert result.stride() == expected.stride()
    for rows in (result, expected):  # the gradient of a mean has strides of 0
        rows.flatten(2 if is_image else 1).mean(dim=-1).square().sum().backward()
    pairs = [(ours, theirs), *zip(grouped.parameters(), norm.parameters(), strict=True)]
    assert all(torch.equal(one.grad, other.grad) for one, other in pairs)  # type: ignore[arg-type]
    buffers = ("running_mean", "running_var")
    assert all(torch.equal(getattr(grouped, name), getattr(norm, name)) for name in buffers)
    with torch.no_grad():
        assert torch.equal(grouped(x), torch.cat([norm(group) for group in x.split(4)]))
