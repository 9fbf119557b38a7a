"""The inner channels of a network's blocks, and their removal.

Inner channels lie between two layers of a block, so the widths along the residual path and the
length of the features stay what they are. Removing a channel is the same function as zeroing it.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.core.architectures import ARCHITECTURES
from pipeline.core.errors import check

BLOCKS = {
    "BasicBlock": (("conv1", "bn1", "conv2"),),
    "Bottleneck": (("conv1", "bn1", "conv2"), ("conv2", "bn2", "conv3")),
    "CNBlock": (("block.3", "", "block.5"),),
}
"""Class of a block -> its inner channels: the layer that makes them, its batch norm (empty: it has
none), and the layer that takes them. Another kind of block is a line, if its module is named."""
MODULES = ("torchvision.models.resnet", "torchvision.models.convnext", "timm.models.resnet")
WORKING = [n for n in ARCHITECTURES if n.startswith(("resnet", "wide_resnet", "convnext"))]
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: ("out_channels", "in_channels"),
    nn.Linear: ("out_features", "in_features"),
    nn.BatchNorm2d: ("num_features",),
}
"""Kinds of layers -> the attributes that say how long the dimensions of their tensors are."""


class Inner(NamedTuple):
    """Inner channels: names of modules as in `BLOCKS`, and how many channels there are."""

    made_by: str
    norm: str
    taken_by: str
    width: int


def inner_channels(network: nn.Module, architecture: str) -> list[Inner]:
    """The inner channels of all blocks, in order; InputError where they cannot be removed."""
    found, plain = [], True
    for name, block in network.named_modules():
        if type(block).__module__ in MODULES:
            for layers in BLOCKS.get(type(block).__name__, ()):
                parts = [block.get_submodule(part) for part in layers if part]
                plain &= all(type(p) in SIZES and getattr(p, "groups", 1) == 1 for p in parts)
                # timm's anti-aliasing filters have as many channels as the block.
                plain &= isinstance(getattr(block, "aa", nn.Identity()), nn.Identity)
                made_by, norm, taken_by = (part and f"{name}.{part}" for part in layers)
                width = len(parts[0].get_parameter("weight"))
                found.append(Inner(made_by, norm, taken_by, width))
    check(
        bool(found) and plain,
        f"inner channels of {architecture} cannot be removed: wanted one of {', '.join(WORKING)}, "
        "or a ResNet of timm without grouped convolutions",
    )
    return found


def keep_channels(network: nn.Module, inner: Inner, kept_C: Tensor) -> None:
    """Remove all other inner channels, in place; the kept ones are numbers, int64, rising."""
    for name, dim in ((inner.made_by, 0), (inner.norm, 0), (inner.taken_by, 1)):
        module = network.get_submodule(name) if name else nn.Module()
        for part in ("weight", "bias", "running_mean", "running_var")[: 1 if dim else 4]:
            tensor = getattr(module, part, None)
            if tensor is not None:
                fewer = tensor.detach().index_select(dim, kept_C.to(tensor.device))
                is_weight = isinstance(tensor, nn.Parameter)
                setattr(module, part, nn.Parameter(fewer) if is_weight else fewer)
                setattr(module, SIZES[type(module)][dim], len(kept_C))


def narrow(network: nn.Module, architecture: str, widths: Mapping[str, int]) -> None:
    """Cut a network to the shape of narrower weights, in place.

    Widths are numbers of inner channels by the layer that makes them; InputError where one does not
    fit.
    """
    makers = {one.made_by: one for one in inner_channels(network, architecture)} if widths else {}
    for name, width in widths.items():
        most = makers[name].width if name in makers else 0
        check(
            isinstance(width, int) and 1 <= width <= most,
            f"{width} inner channels of {name!r} do not fit {architecture}: wanted 1 to {most}",
        )
        keep_channels(network, makers[name], torch.arange(width))
