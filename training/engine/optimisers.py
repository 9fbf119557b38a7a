"""Optimisers by name, and LARS.

Methods of torch's optimisers import its compiler, which takes a second of every process. The
classes here run the same code without that.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from training.config.settings import OptimConfig


class _Uncompiled:
    """Methods of torch's optimisers without the decorators that import the compiler."""

    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    zero_grad = inspect.unwrap(Optimizer.zero_grad)


class _SGD(_Uncompiled, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class _AdamW(_Uncompiled, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def build_optimiser(config: OptimConfig, module: nn.Module, device: torch.device) -> Optimizer:
    """The optimiser of a module's parameters, which are on ``device``.

    SGD decays every parameter, as in the MoCo paper. The others neither decay nor adapt parameters
    of one dimension, which are biases and batch norm.
    """
    fused, lr, decay = device.type == "cuda", config.lr, config.weight_decay
    if config.name == "sgd":
        return _SGD(
            module.parameters(), lr=lr, momentum=config.momentum, weight_decay=decay, fused=fused
        )
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapted": False},
    ]
    if config.name == "adamw":
        return _AdamW(groups, lr=lr, fused=fused)
    trust, clip = config.trust_coefficient, config.lars_clip
    return LARS(groups, lr=lr, momentum=config.momentum, trust_coefficient=trust, clip=clip)


class LARS(_Uncompiled, Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888) without host syncs.

    For a tensor w with gradient g, momentum m, weight decay d and trust coefficient t:

        u = g + d * w,   u <- u * t * |w| / |u|,   v <- m * v + u,   w <- w - lr * v

    The factor is 1 where |w| or |u| is 0, and in a group with ``adapted`` False (arXiv 2002.05709,
    appendix B.9). With ``clip`` a factor f becomes min(f / lr, 1), so that a tensor's own rate is
    at most lr (as in solo-learn, arXiv 2108.01775).

    Departure from the paper: the rate multiplies the momentum buffer, as in torch's SGD, not what
    goes into it. That differs only while the rate changes.
    """

    def __init__(
        self,
        params: Any,  # noqa: ANN401  (torch's own kinds)
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        clip: bool = False,
    ) -> None:
        settings = {"trust_coefficient": trust_coefficient, "clip": clip, "adapted": True}
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults | settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates the parameters that have a gradient, in a few kernels for all of them."""
        assert closure is None, "the loss is never evaluated again"
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            gradients = [p.grad for p in weights]
            updates = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            if group["adapted"]:
                factors = _trust(weights, updates, group["trust_coefficient"])
                if group["clip"]:
                    torch._foreach_div_(factors, group["lr"])
                    torch._foreach_clamp_max_(factors, 1.0)
                torch._foreach_mul_(updates, factors)
            for weight in weights:
                if "momentum_buffer" not in self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
            buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(weights, buffers, alpha=-group["lr"])


def _trust(
    weights: list[Tensor], updates: tuple[Tensor, ...] | list[Tensor], coefficient: float
) -> list[Tensor]:
    """The factors t * |w| / |u|, scalars on the device."""
    weight_norm = torch.stack(torch._foreach_norm(weights))
    update_norm = torch.stack(torch._foreach_norm(updates))
    usable = (weight_norm > 0) & (update_norm > 0)
    return list(torch.where(usable, coefficient * weight_norm / update_norm, 1.0).unbind())
