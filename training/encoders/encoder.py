"""The encoder: a ConvNet of torchvision or timm without its classifier, its head, its batch norm.

Shapes: B batch, C channels, H W pixels, D features.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.backbone.weights import find_weights, load_weights
from pipeline.core.architectures import classifier_names, plain_network, stem_name
from pipeline.core.errors import InputError
from training.encoders.settings import EncoderConfig
from training.encoders.stem import (
    PartialConv2d,
    fit_stem,
    pad_kernel,
    see_masks,
    shrink_stem,
    with_mask,
)

COMPILER = "inductor"
"""Backend of `torch.compile`."""


class Backbone(nn.Module):
    """A network without its classifier.

    Attributes:
        network: the library's module.
        feature_dim: D.
        small_stem: whether its stem stands for the centre of a larger one.
        compiled: whether the network runs through torch.compile.
        sees_masks: whether the stem is a partial convolution.
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
        self.network = network
        self.feature_dim = feature_dim
        self.small_stem = small_stem
        self.compiled = compiled
        self.sees_masks = any(isinstance(module, PartialConv2d) for module in network.modules())
        self._compile()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._compile()  # torch leaves this out of a copy, and the momentum encoder is one

    def _compile(self) -> None:
        if self.compiled:
            self.network.compile(backend=COMPILER)

    def forward(self, view_BCHW: Tensor, mask_BCHW: Tensor | None = None) -> Tensor:
        """Pooled features [B, D] of normalised views.

        Args:
            view_BCHW: float [B, 3, H, W], or what `with_mask` made of it.
            mask_BCHW: bool [B, 1 or 3, H, W], True where masked; only a partial stem uses it.
        """
        features_BD: Tensor = self.network(self.with_mask(view_BCHW, mask_BCHW))
        return features_BD

    def with_mask(self, view_BCHW: Tensor, mask_BCHW: Tensor | None) -> Tensor:
        """The view for `forward`, which carries its mask if the stem is partial."""
        if mask_BCHW is None or not self.sees_masks:
            return view_BCHW
        return with_mask(view_BCHW, mask_BCHW)


def build_backbone(config: EncoderConfig) -> Backbone:
    """Build the network and load its first weights.

    The caller seeds torch: random weights come from its global generator.

    Raises:
        InputError: weights that are not there or do not fit; a stem that the network cannot have.
    """
    network, feature_dim = plain_network(config.architecture, max_pool=config.max_pool)
    small, partial = config.stem.startswith("small"), config.stem.endswith("partial")
    if small:
        shrink_stem(network, config.architecture)
    if config.init is not None:
        load_initial(network, config.init, config.architecture, max_pool=config.max_pool)
    if partial:
        see_masks(network, config.architecture)
    return Backbone(network, feature_dim, small_stem=small, compiled=config.compile)


def load_initial(network: nn.Module, init: str, architecture: str, *, max_pool: bool) -> None:
    """Load the weights that `EncoderConfig.init` names into a plain network, small stem or not.

    Raises:
        InputError: weights that are not there or do not fit.
    """
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
    last_batch_norm: bool = False,
) -> nn.Sequential:
    """A multi-layer perceptron, [B, feature_dim] -> [B, output_dim], without normalisation.

    MoCo v2 (arXiv 2003.04297): two layers, no batch norm. SimCLR (arXiv 2002.05709): two layers
    (v2, arXiv 2006.10029: three), batch norm behind all of them.

    There are ``num_layers`` linear layers with ReLU between two. Batch norm stands behind every
    layer but the last with ``batch_norm``, behind the last with ``last_batch_norm``; such layers
    have no bias.
    """
    if num_layers < 1:
        raise InputError(f"a projection head of {num_layers} layers: wanted 1 or more")
    layers: list[nn.Module] = []
    width = feature_dim
    for number in range(1, num_layers + 1):
        is_last = number == num_layers
        following, normed = (output_dim, last_batch_norm) if is_last else (hidden_dim, batch_norm)
        layers.append(nn.Linear(width, following, bias=not normed))
        layers += [nn.BatchNorm1d(following)] if normed else []
        layers += [] if is_last else [nn.ReLU(inplace=True)]
        width = following
    return nn.Sequential(*layers)


class _Grouped(nn.modules.batchnorm._BatchNorm):
    """Batch norm that normalises each run of ``group_size`` consecutive samples by itself.

    Parameters, buffers and inference are those of plain batch norm; the running statistics take in
    one group after the other.
    """

    group_size: int

    def forward(self, input: Tensor) -> Tensor:
        """Normalises ``input`` [B, C, ...]; training: B is 1 or a multiple of the group size."""
        if not self.training or input.shape[0] in (1, self.group_size):
            return super().forward(input)
        assert input.shape[0] % self.group_size == 0, (input.shape, self.group_size)
        return torch.cat([self._normalised(group) for group in input.split(self.group_size)])

    def _normalised(self, group: Tensor) -> Tensor:
        return super().forward(group)


class _PlainGrouped(_Grouped):
    """For torch's own classes: avoids the kernel per group and layer that counts the batches."""

    def _normalised(self, group: Tensor) -> Tensor:
        return functional.batch_norm(
            group,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
            momentum=self.momentum if self.momentum is not None else 0.1,
            eps=self.eps,
        )


@cache
def _grouped_class(kind: type[nn.Module]) -> type[_Grouped]:
    """The grouped form of a kind of batch norm, such as timm's with its activation inside."""
    base = _PlainGrouped if kind in (nn.BatchNorm1d, nn.BatchNorm2d) else _Grouped
    namespace: dict[str, Any] = {"__doc__": f"``{kind.__name__}`` over groups."}
    return type(f"Grouped{kind.__name__}", (base, kind), namespace)


def group_batch_norm(module: nn.Module, group_size: int) -> nn.Module:
    """Turns every batch norm of ``module`` into a grouped one, in place.

    Statistics of groups do not depend on the number of ranks, so that one process with many groups
    computes the same as many ranks with one group each. And shuffled groups keep a network from
    telling by their statistics which query belongs to which key, on one device too.

    A network without any (ConvNeXt has layer norm) stays as it is.

    Args:
        module: network whose parameters and buffers stay as they are.
        group_size: samples per group, at least 2.

    Raises:
        InputError: when a group is too small for statistics.
    """
    if group_size < 2:
        raise InputError(f"a batch-norm group of {group_size} has no statistics: use 2 or more")
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if not isinstance(child, _Grouped):
                child.__class__ = _grouped_class(type(child))  # type: ignore[arg-type]
            assert isinstance(child, _Grouped)
            child.group_size = group_size
    return module


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Does not update the running statistics of any batch norm while the block runs.

    For passes of images that the exported network is not to be tuned to. In training mode the
    norms still use the batch's own statistics.
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
