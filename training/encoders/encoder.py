"""The encoder: a ConvNet of torchvision or timm without its classifier, its head, its batch norm.

Shapes: B batch, C channels, H W pixels, D features, N groups of batch norm.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.backbone.weights import find_weights, load_weights
from pipeline.core.architectures import classifier_names, plain_network, stem_name
from pipeline.images.pixel_format import RGB
from training.encoders.settings import EncoderConfig
from training.encoders.stem import (
    PartialConv2d,
    fit_stem,
    pad_kernel,
    see_masks,
    shrink_stem,
)

COMPILER = "inductor"
"""Backend of `torch.compile`."""
LEAST_NUMBERS = 1 << 19
"""Of a group, from which `_InPlace` is faster."""


class Backbone(nn.Module):
    """A network without its classifier: normalised views to pooled features [B, D].

    A partial stem (`sees_masks`) takes what `stem.with_mask` makes of view and mask as well.
    """

    def __init__(
        self,
        network: nn.Module,
        feature_dim: int,
        *,
        small_stem: bool = False,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.feature_dim = network, feature_dim
        self.small_stem, self.compiled = small_stem, compiled
        self.sees_masks = any(isinstance(module, PartialConv2d) for module in network.modules())
        self._compile()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()  # torch leaves this out of a copy, and the momentum encoder is one

    def _compile(self) -> None:
        if self.compiled:
            self.network.compile(backend=COMPILER)

    def forward(self, view_BCHW: Tensor) -> Tensor:
        """Features of float views [B, C, H, W]."""
        features_BD: Tensor = self.network(view_BCHW)
        return features_BD


def build_backbone(config: EncoderConfig, channels: int = RGB) -> Backbone:
    """Build the network for images of so many channels and load its first weights.

    The caller seeds torch: random weights come from its global generator.

    Raises:
        InputError: weights that are not there or do not fit; a stem that the network cannot have.
    """
    network, feature_dim = plain_network(
        config.architecture, max_pool=config.max_pool, channels=channels
    )
    small, partial = config.stem.startswith("small"), config.stem.endswith("partial")
    if small:
        shrink_stem(network, config.architecture)
    if config.init is not None:
        load_initial(network, config.init, config.architecture, max_pool=config.max_pool)
    if partial:
        see_masks(network, config.architecture)
    return Backbone(network, feature_dim, small_stem=small, compiled=config.compile)


def load_initial(network: nn.Module, init: str, architecture: str, *, max_pool: bool) -> None:
    """Load the weights that `EncoderConfig.init` names into a plain network, small stem or not."""
    state = find_weights(init, architecture, max_pool=max_pool).state
    load_weights(
        network,
        fit_stem(state, network, source=init),
        architecture=architecture,
        source=init,
        leave_out=classifier_names(architecture),
    )


def plain_state_dict(backbone: Backbone) -> dict[str, Tensor]:
    """Detached copies of the weights as the library's network without its classifier has them.

    A small stem's 3 x 3 kernel stands in the centre of 7 x 7 zeros: with the same stride and
    padding 3 instead of 1 that is the same convolution. A partial stem is a plain one as long as
    nothing is masked.
    """
    network = backbone.network
    state = {name: value.detach().clone() for name, value in network.state_dict().items()}
    if backbone.small_stem:
        stem = f"{stem_name(network)}.weight"
        state[stem] = pad_kernel(state[stem])
    return state


def projection_head(
    feature_dim: int,
    hidden_dim: int,
    output_dim: int,
    *,
    num_layers: int = 2,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A multi-layer perceptron, [B, feature_dim] -> [B, output_dim], without normalisation.

    `num_layers` linear layers with ReLU between two; with `batch_norm` all but the last are
    followed by one and have no bias. MoCo v2 (arXiv 2003.04297): two layers, no batch norm.
    """
    layers: list[nn.Module] = []
    width = feature_dim
    for _ in range(num_layers - 1):
        layers.append(nn.Linear(width, hidden_dim, bias=not batch_norm))
        layers += [nn.BatchNorm1d(hidden_dim)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
        width = hidden_dim
    return nn.Sequential(*layers, nn.Linear(width, output_dim))


class _Grouped(nn.modules.batchnorm._BatchNorm):
    """Batch norm that normalises each run of ``group_size`` consecutive samples by itself.

    Parameters, buffers and inference are those of plain batch norm; the running statistics take in
    one group after the other.
    """

    group_size: int
    of_torch: bool
    """Whether this is torch's own class, without an activation inside."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, ...]; training: B is 1 or a multiple of the group size."""
        whole = super().forward
        if not self.training or input.shape[0] in (1, self.group_size):
            return whole(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        if self.of_torch and input.device.type == "cpu" and not torch.compiler.is_compiling():
            groups = input.shape[0] // self.group_size
            if input.numel() // groups >= LEAST_NUMBERS:
                in_place: Tensor = _InPlace.apply(input, self.group_size, *self._arguments())
                return in_place
        normalised = self._normalised if self.of_torch else whole
        return torch.cat([normalised(group) for group in input.split(self.group_size)])

    def _arguments(self) -> tuple[Any, ...]:
        momentum = self.momentum if self.momentum is not None else 0.1
        return self.weight, self.bias, self.running_mean, self.running_var, momentum, self.eps

    def _normalised(self, group: Tensor) -> Tensor:
        """Avoids the kernel per group and layer that counts the batches."""
        weight, bias, mean, var, momentum, eps = self._arguments()
        return functional.batch_norm(
            group, mean, var, weight, bias, training=True, momentum=momentum, eps=eps
        )


class _InPlace(torch.autograd.Function):
    """The groups one by one, each written to its place, on a CPU: the same bits, without copies."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        input: Tensor,
        group_size: int,
        weight: Tensor | None,
        bias: Tensor | None,
        *rest: Any,  # noqa: ANN401
    ) -> Tensor:
        mean, var, momentum, eps = rest
        out = _empty_as(input)
        groups, places = input.split(group_size), out.split(group_size)
        dtype = torch.promote_types(input.dtype, torch.float32)
        saved_N2C = torch.empty(len(groups), 2, input.shape[1], dtype=dtype)
        for group, place, saved in zip(groups, places, saved_N2C, strict=True):
            to = (place, *saved)
            torch.native_batch_norm(group, weight, bias, mean, var, True, momentum, eps, out=to)
        ctx.save_for_backward(input, weight, saved_N2C)
        ctx.group_size, ctx.eps = group_size, eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:  # noqa: ANN401
        input, weight, saved_N2C = ctx.saved_tensors
        wanted, needs = _empty_as(input), ctx.needs_input_grad
        parts = (tensor.split(ctx.group_size) for tensor in (input, gradient, wanted))
        summed: list[Tensor | None] = [None, None]
        which = [needs[0], needs[2], needs[3]]
        groups = list(zip(*parts, *saved_N2C.unbind(dim=1), strict=True))
        for group, above, place, mean, invstd in reversed(groups):  # as autograd adds them
            of_group, *more = torch.ops.aten.native_batch_norm_backward(
                above, group, weight, None, None, mean, invstd, True, ctx.eps, which
            )
            if needs[0]:
                place.copy_(of_group)
            summed = [
                new if old is None else old + new for old, new in zip(summed, more, strict=True)
            ]
        return wanted if needs[0] else None, None, *summed, *[None] * 4


def _empty_as(rows: Tensor) -> Tensor:
    """Room for rows in their order of memory; for maps of one pixel it is the usual one."""
    last = rows.ndim == 4 and not rows.is_contiguous()
    last = last and rows.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if last else torch.contiguous_format
    return torch.empty(rows.shape, dtype=rows.dtype, memory_format=order)


@cache
def _grouped_class(kind: type[nn.Module]) -> type[_Grouped]:
    """The grouped form of a kind of batch norm, such as timm's with its activation inside."""
    of_torch = kind in (nn.BatchNorm1d, nn.BatchNorm2d)
    return type(f"Grouped{kind.__name__}", (_Grouped, kind), {"of_torch": of_torch})


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Turn every batch norm of a module into one over groups of 2 samples or more, in place.

    Statistics of groups do not depend on the number of ranks, so that one process with many groups
    computes the same as many ranks with one group each. And shuffled groups keep a network from
    telling by their statistics which query belongs to which key, on one device too.

    Parameters and buffers stay. A network without batch norm (ConvNeXt has layer norm) does too.
    """
    assert group_size >= 2, group_size
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if not isinstance(child, _Grouped):
                child.__class__ = _grouped_class(type(child))  # type: ignore[arg-type]
            assert isinstance(child, _Grouped)
            child.group_size = group_size
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of all batch norms alone while the block runs.

    For images that the exported network is not to be tuned to. In training mode the norms still use
    the batch's own statistics.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
