"""Networks by name, without their classifiers: torchvision's ConvNets and, if installed, timm's.

Each network keeps its library's pooling, so weights can be exchanged with the library and give the
same features. Only the classifier is replaced, by an identity (`CLASSIFIERS`; of a ConvNeXt the
last linear layer alone: the norm before it is a feature). For timm it is `num_classes=0`.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.core.errors import InputError, check
from pipeline.core.vision import torchvision

TIMM = "timm:"
"""Prefix of the names of timm's networks."""
PROBE_SIZE = 128
"""Side in pixels of the view that tests a timm network; transformers are not built for it."""
CLASSIFIERS = {
    "convnext": "classifier.2",
    "densenet": "classifier",
    "efficientnet": "classifier",
    "mobilenetv3": "classifier",
    "regnet": "fc",
    "resnet": "fc",
}
"""Module of `torchvision.models` -> the classifier of its networks."""


def family(name: str) -> str:
    """The module of `torchvision.models` that builds a network."""
    module: str = torchvision.models.get_model_builder(name).__module__
    return module.rpartition(".")[2]


ARCHITECTURES: tuple[str, ...] = tuple(
    name
    for name in torchvision.models.list_models(module=torchvision.models)
    if family(name) in CLASSIFIERS
)


def check_architecture(name: str) -> None:
    """Raise InputError unless torchvision or, for `timm:NAME`, timm has the network."""
    if not name.startswith(TIMM):
        check(
            name in ARCHITECTURES,
            f"unknown architecture {name!r}: wanted timm:NAME or one of {', '.join(ARCHITECTURES)}",
        )
        return
    timm, wanted = import_timm(name), name.removeprefix(TIMM)
    if not timm.is_model(wanted):
        close = difflib.get_close_matches(wanted, timm.list_models(), n=5, cutoff=0.5)
        raise InputError(
            f"timm {timm.__version__} has no {wanted!r}: wanted a name of timm.list_models()"
            + (f", {', '.join(close)} perhaps" if close else "")
        )


def import_timm(name: str) -> ModuleType:
    """Import timm for the network `name`, or raise InputError if it is not installed."""
    try:
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name} needs timm, which is not installed here ({error}): install the extra, "
            "salmask[timm]"
        ) from error


class NoInitialWeights(TorchFunctionMode):
    """Within it, networks are built with zeros for random weights, for a caller that loads others.

    Most of the time to build a network goes to draws. The global generator stays as it is.
    """

    _DRAWS = (
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        Tensor.normal_,
        Tensor.uniform_,
    )
    """What torch tells of and draws; other functions of `nn.init` call one of them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, unless it draws into a tensor: that one becomes 0.

        0 lies within all bounds: `nn.init.trunc_normal_` draws until it is within them.
        """
        kwargs = kwargs or {}
        if func not in self._DRAWS:
            return func(*args, **kwargs)
        tensor = args[0] if args else kwargs["tensor"]
        with torch.no_grad():
            return tensor.zero_()


def plain_network(
    architecture: str, *, max_pool: bool = True, channels: int = 3
) -> tuple[nn.Module, int]:
    """A network without its classifier, with random weights, and the length of its feature vector.

    Args:
        architecture: one of `ARCHITECTURES`, or `timm:NAME`.
        max_pool: false replaces the only maximum pooling, after the stem, with an identity.
        channels: C; the first convolution is replaced by one of other than three channels.

    Returns:
        The network, in training mode: [B, C, H, W] -> [B, feature_dim]; and feature_dim.

    Raises:
        InputError: unknown name, a timm network that is not a ConvNet, or no single maximum
            pooling to replace.
    """
    check_architecture(architecture)
    if architecture.startswith(TIMM):
        network, feature_dim = _timm_network(architecture)
    else:
        network = torchvision.models.get_model(architecture, weights=None)
        (name,) = classifier_names(architecture)
        classifier = network.get_submodule(name)
        feature_dim = next(m.in_features for m in classifier.modules() if isinstance(m, nn.Linear))
        network.set_submodule(name, nn.Identity())
    if not max_pool:
        network.set_submodule(max_pool_name(network, architecture), nn.Identity())
    if channels != 3:
        _take_channels(network, architecture, channels)
    return network, feature_dim


def _take_channels(network: nn.Module, architecture: str, channels: int) -> None:
    """Give the first convolution so many channels, with random weights."""
    stem = network.get_submodule(stem_name(network))
    is_plain = isinstance(stem, nn.Conv2d) and stem.groups == 1
    check(is_plain, f"{architecture} takes three channels only: it begins with a {stem}")
    assert isinstance(stem, nn.Conv2d)
    stem.in_channels = channels
    stem.weight = nn.Parameter(torch.empty(stem.out_channels, channels, *stem.kernel_size))
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")


def _timm_network(architecture: str) -> tuple[nn.Module, int]:
    """As `plain_network`; a view of `PROBE_SIZE` gives the length of the features."""
    timm = import_timm(architecture)
    network: nn.Module = timm.create_model(architecture.removeprefix(TIMM), num_classes=0)
    try:
        with torch.no_grad():
            shape = tuple(network.eval()(torch.zeros(1, 3, PROBE_SIZE, PROBE_SIZE)).shape)
    except Exception as error:  # networks raise anything for a size that they are not built for
        raise InputError(
            f"{architecture} does not take views of {PROBE_SIZE} pixels "
            f"({first_line(error)}): wanted a ConvNet that takes any size"
        ) from error
    check(
        len(shape) == 2,
        f"{architecture} gives {list(shape)} for one view: wanted pooled features [1, D]",
    )
    return network.train(), shape[1]


def classifier_names(architecture: str) -> tuple[str, ...]:
    """The modules of the library's network that a plain network lacks."""
    if not architecture.startswith(TIMM):
        return (CLASSIFIERS[family(architecture)],)
    models = import_timm(architecture).models
    name = architecture.removeprefix(TIMM)
    names: str | tuple[str, ...] | None = models.get_pretrained_cfg_value(name, "classifier")
    return (names,) if isinstance(names, str) else tuple(names or ())


def stem_name(network: nn.Module) -> str:
    """The name of the first convolution: the first in order that takes RGB, or else any image."""
    found = {n: m.in_channels for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    first: str = next((n for n, channels in found.items() if channels == 3), next(iter(found)))
    return first


def max_pool_name(network: nn.Module, architecture: str) -> str:
    """The name of the only maximum pooling; InputError if there is none or there are several."""
    names: list[str] = [n for n, m in network.named_modules() if isinstance(m, nn.MaxPool2d)]
    if len(names) != 1:
        raise InputError(
            f"max_pool false does not go with {architecture}, which has {len(names)} maximum "
            "poolings: wanted a network with one, behind its stem (a ResNet, a DenseNet)"
        )
    return names[0]


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if there is no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
