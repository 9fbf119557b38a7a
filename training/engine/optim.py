"""The optimiser: settings, and which parameters get which treatment."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from pipeline.core.errors import InputError
from training.engine.lars import LARS

OPTIMISERS = ("sgd", "lars", "adamw")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser with a cosine schedule; the defaults are the paper's for MoCo v2.

    Attributes:
        name: sgd; lars for large batches (SimCLR); or adamw.
        lr: learning rate after the warm-up, above 0; it falls to 0 along a cosine.
        momentum: of SGD and LARS, in [0, 1).
        weight_decay: 0 or more; on every parameter with SGD, on all but biases and batch norm with
            the others.
        warmup_epochs: epochs over which the rate rises linearly from 0, 0 or more.
        trust_coefficient: of LARS, above 0.
        lars_clip: of LARS: no tensor's own rate is above lr.
    """

    name: Literal["sgd", "lars", "adamw"] = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 0.0
    trust_coefficient: float = 0.001
    lars_clip: bool = False

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise InputError(
                f"unknown optimiser {self.name!r}: choose from {', '.join(OPTIMISERS)}"
            )
        if self.lr <= 0:
            raise InputError(f"optim.lr {self.lr} must be above 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"optim.momentum {self.momentum} must be in [0, 1)")
        if self.weight_decay < 0 or self.warmup_epochs < 0:
            raise InputError("optim.weight_decay and optim.warmup_epochs must not be negative")
        if self.trust_coefficient <= 0:
            raise InputError(f"optim.trust_coefficient {self.trust_coefficient} must be above 0")


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
