"""Partial convolutions against sums written by hand, and stems that networks cannot have."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from training.encoders.encoder import build_backbone, plain_state_dict
from training.encoders.settings import EncoderConfig
from training.encoders.stem import PartialConv2d, is_padded, pad_kernel, see_masks, with_mask


def convolution(kernel: int, stride: int, padding: int, *, bias: bool) -> PartialConv2d:
    torch.manual_seed(0)
    return PartialConv2d(3, 4, kernel, stride=stride, padding=padding, bias=bias).double()


def by_hand(layer: PartialConv2d, view: Tensor, mask: Tensor) -> Tensor:
    """Window by window: W * visible pixels * (pixels inside the view / visible ones) + b."""
    (kernel, _), (stride, _) = layer.kernel_size, layer.stride
    padding = layer.padding[0]
    assert isinstance(padding, int)
    size = (view.shape[-1] + 2 * padding - kernel) // stride + 1
    hidden = mask.expand(view.shape)
    result = torch.zeros(len(view), layer.out_channels, size, size, dtype=view.dtype)
    for b, row, column in product(range(len(view)), range(size), range(size)):
        inside = visible = 0
        total = torch.zeros(layer.out_channels, dtype=view.dtype)
        for c, i, j in product(range(3), range(kernel), range(kernel)):
            y, x = row * stride - padding + i, column * stride - padding + j
            if not (0 <= y < view.shape[-2] and 0 <= x < view.shape[-1]):
                continue
            inside += 1
            if not hidden[b, c, y, x]:
                visible += 1
                total += layer.weight[:, c, i, j].detach() * view[b, c, y, x]
        if visible:
            result[b, :, row, column] = total * inside / visible
            if layer.bias is not None:
                result[b, :, row, column] += layer.bias.detach()
    return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"), [(7, 2, 3, False), (3, 2, 1, True), (4, 4, 0, True)]
)
def test_is_what_the_sums_by_hand_say(
    channels: int, kernel: int, stride: int, padding: int, bias: bool
) -> None:
    layer = convolution(kernel, stride, padding, bias=bias)
    generator = torch.Generator().manual_seed(1)
    view = torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, channels, 8, 8, generator=generator) < 0.6
    mask[0, :, :5, :5] = True  # whole windows without a visible pixel
    result = layer(with_mask(view, mask))
    torch.testing.assert_close(result, by_hand(layer, view, mask))
    if kernel != 7:
        assert (result[0, :, 0, 0] == 0).all()


def test_masked_pixels_contribute_nothing_whatever_stands_in_them() -> None:
    layer = convolution(3, 1, 1, bias=True)
    view = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 3, 8, 8) < 0.5
    expected = layer(with_mask(view, mask))
    expected.square().sum().backward()
    assert view.grad is not None
    assert (view.grad[mask] == 0).all()
    assert (view.grad[~mask] != 0).any()
    for value in (0.0, 1e6, float("nan"), float("inf")):
        assert torch.equal(layer(with_mask(view.masked_fill(mask, value), mask)), expected)


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny", "efficientnet_b0"])
def test_a_partial_stem_hides_what_is_masked(name: str) -> None:
    torch.manual_seed(0)
    backbone = build_backbone(EncoderConfig(architecture=name, stem="partial"))
    torch.manual_seed(0)
    standard = build_backbone(EncoderConfig(architecture=name))
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    view, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    mask[:, :, 16:48, 8:40] = True
    with torch.no_grad():
        expected = standard.eval()(view)
        assert torch.equal(backbone.eval()(view), expected)
        assert torch.equal(backbone(with_mask(view, torch.zeros_like(mask))), expected)
        masked = backbone(with_mask(view, mask))
        assert torch.equal(backbone(with_mask(view.masked_fill(mask, 5), mask)), masked)
    assert not torch.equal(masked, expected)


class Forked(nn.Module):
    """Two convolutions that both see the view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3)

    def forward(self, view: Tensor) -> Tensor:
        both: Tensor = self.first(view) + self.second(view)
        return both


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(3, 2, 3, dilation=2)), r"\(0\) is a Conv2d.*dilation"),
        (nn.Sequential(nn.Conv2d(3, 2, 3, padding="same")), "is a Conv2d.*padding=same"),
        (Forked(), r"\(first\) is not the only one.*3 channels"),
    ],
)
def test_networks_that_cannot_see_masks(network: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=f"stem partial does not go with mine.*{message}"):
        see_masks(network, "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [("convnext_tiny", r"4 x 4, stride 4"), ("mobilenet_v3_small", r"3 x 3, stride 2")],
)
def test_networks_that_cannot_have_a_small_stem(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"stem small does not go with {name}.*{message}"):
        build_backbone(EncoderConfig(architecture=name, stem="small"))


def test_kernels_are_padded_and_known_again() -> None:
    kernel = torch.randn(4, 3, 3, 3)
    padded = pad_kernel(kernel)
    assert padded.shape == (4, 3, 7, 7)
    assert is_padded(padded)
    padded[0, 0, 0, 6] = 1e-9
    assert not is_padded(padded)


@pytest.mark.parametrize("stem", ["standard", "small", "partial"])
def test_weights_of_rgb_are_averaged_for_other_channels(
    stem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five equal channels give what three equal ones gave."""
    torch.manual_seed(0)
    settings = {"architecture": "resnet18", "stem": stem}
    rgb = build_backbone(EncoderConfig(**settings))  # type: ignore[arg-type]
    torch.save(plain_state_dict(rgb), tmp_path / "rgb.pth")
    config = EncoderConfig(**settings, init=str(tmp_path / "rgb.pth"))  # type: ignore[arg-type]
    five = build_backbone(config, channels=5)
    assert "the first convolution is averaged over RGB for each of 5 channels" in (
        capsys.readouterr().out
    )
    grey = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = rgb.eval()(grey.repeat(1, 3, 1, 1))
        torch.testing.assert_close(five.eval()(grey.repeat(1, 5, 1, 1)), expected)
        if stem == "partial":
            carried = with_mask(grey.repeat(1, 5, 1, 1), torch.zeros(2, 1, 64, 64).bool())
            torch.testing.assert_close(five(carried), expected)
