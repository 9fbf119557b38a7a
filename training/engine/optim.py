"""The optimiser: settings, and which parameters get which treatment."""

from typing import Any

import torch
from torch import nn

from training.config.settings import OptimConfig
from training.engine.lars import LARS


def build_optimiser(
    config: OptimConfig, module: nn.Module, device: torch.device
) -> torch.optim.Optimizer:
    """The optimiser of a module's parameters.

    Args:
        config: settings.
        module: on ``device``.
        device: where the parameters are; CUDA gets fused kernels where torch has them.
    """
    fused = device.type == "cuda"
    if config.name == "sgd":
        return torch.optim.SGD(
            module.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=fused,
        )
    groups = split_parameters(module, config.weight_decay)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return LARS(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        trust_coefficient=config.trust_coefficient,
        clip=config.lars_clip,
    )


def split_parameters(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: weights, and what is neither decayed nor adapted (biases, batch norm).

    The second is told by having one dimension.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapted": False},
    ]
