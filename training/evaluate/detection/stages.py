"""A ConvNet as four stages, each at half the resolution of the one before: what a detector needs.

Shapes: B batch, C channels, H W pixels.
"""

import copy

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from pipeline.core.architectures import TIMM, family
from pipeline.core.errors import InputError
from training.encoders.encoder import Backbone

STAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "resnet": (
        ("conv1", "bn1", "relu", "maxpool", "layer1"),
        ("layer2",),
        ("layer3",),
        ("layer4",),
    ),
    "regnet": (
        ("stem", "trunk_output.block1"),
        ("trunk_output.block2",),
        ("trunk_output.block3",),
        ("trunk_output.block4",),
    ),
    "convnext": tuple((f"features.{2 * i}", f"features.{2 * i + 1}") for i in range(4)),
}
"""Module of `torchvision.models` -> the parts that make up each stage; a new adapter is a line."""
PROBE_SIZE = 128


class Stage(nn.Sequential):
    """Parts of a backbone in their order.

    Attributes:
        channels: C of its output.
        stride: pixels of the image per pixel of its output.
    """

    channels: int
    stride: int


def check_adapter(architecture: str) -> None:
    """Raise InputError for an architecture that has no stages here."""
    if architecture.startswith(TIMM) or family(architecture) not in STAGES:
        raise InputError(
            f"detection has no adapter for {architecture}: wanted a network of torchvision's "
            f"{', '.join(STAGES)}"
        )


def stages_of(network: nn.Module, architecture: str, *, frozen_norm: bool) -> list[Stage]:
    """Copy a plain network's stages.

    Args:
        network: plain, or a `Backbone` around it; left as it is.
        architecture: its name.
        frozen_norm: whether batch norm keeps its statistics and weights.

    Returns:
        Four stages: the first takes [B, 3, H, W], each next one what the one before gave.

    Raises:
        InputError: an architecture without an adapter.
    """
    check_adapter(architecture)
    network = copy.deepcopy(network.network if isinstance(network, Backbone) else network)
    assert isinstance(network, nn.Module)
    if frozen_norm:
        freeze_norm(network)
    stages = [
        Stage(*(network.get_submodule(part) for part in parts))
        for parts in STAGES[family(architecture)]
    ]
    at = next(network.parameters())
    x_1CHW = torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE, device=at.device)
    with torch.no_grad():
        for stage in stages:
            x_1CHW = stage.eval()(x_1CHW)
            stage.channels, stage.stride = x_1CHW.shape[1], PROBE_SIZE // x_1CHW.shape[-1]
    return stages


def freeze_norm(network: nn.Module) -> None:
    """Put a fixed scale and shift in the place of every batch norm."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
            state = module.state_dict()
            state.pop("num_batches_tracked", None)
            frozen.load_state_dict(state)
            network.set_submodule(name, frozen.to(module.weight.device))
