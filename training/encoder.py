"""The encoder: a torchvision ResNet without its classifier, and the projection head.

Views of 64 pixels want a smaller stem: a 3 x 3 convolution of stride 2, with or without the
maximum pooling. Centred in a kernel of 7 x 7 zeros it is the same function in plain torchvision,
and that is how it is exported.

Shapes: B batch, C channels, H W pixels, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pipeline.backbone import ARCHITECTURES, load_backbone, plain_network
from pipeline.errors import InputError

STEMS = ("standard", "small")
STEM_WEIGHT = "conv1.weight"
STEM_PADDING = 2  # a 3 x 3 kernel stands at rows and columns 2 to 4 of a 7 x 7 one


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Which network is trained.

    Attributes:
        architecture: torchvision's name, of its ResNet family.
        stem: `standard` is torchvision's 7 x 7, stride 2; `small` is 3 x 3, stride 2.
        max_pool: keep torchvision's maximum pooling behind the stem.
        init: weights to start from: `torchvision` (its default ones), `torchvision:NAME`, a local
            torchvision state dict (.pth), or the folder of an exported backbone; none: random.
    """

    architecture: str = "resnet50"
    stem: Literal["standard", "small"] = "standard"
    max_pool: bool = True
    init: str | None = None

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"unknown architecture {self.architecture!r}: "
                f"wanted one of {', '.join(ARCHITECTURES)}"
            )
        if self.stem not in STEMS:
            raise InputError(f"unknown stem {self.stem!r}: wanted one of {', '.join(STEMS)}")


class Backbone(nn.Module):
    """A torchvision network without its classifier.

    Attributes:
        network: the torchvision module.
        feature_dim: D.
    """

    def __init__(self, network: nn.Module, feature_dim: int) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim

    def forward(self, view_BCHW: torch.Tensor) -> torch.Tensor:
        """Features [B, D] of normalised float views [B, 3, H, W]."""
        features_BD: torch.Tensor = self.network(view_BCHW)
        return features_BD


def build_backbone(config: EncoderConfig) -> Backbone:
    """Build the network and load its first weights.

    The caller seeds torch: random weights come from its global generator.

    Raises:
        InputError: weights that are not there or do not fit.
    """
    network, feature_dim = plain_network(config.architecture, max_pool=config.max_pool)
    if config.stem == "small":
        stem = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        network.conv1 = stem
    if config.init is not None:
        load_weights(network, initial_weights(config, config.init), source=config.init)
    return Backbone(network, feature_dim)


def projection_head(
    feature_dim: int,
    hidden_dim: int,
    output_dim: int,
    *,
    num_layers: int = 2,
    batch_norm: bool = False,
    last_batch_norm: bool = False,
) -> nn.Sequential:
    """A multi-layer perceptron, [B, feature_dim] -> [B, output_dim]; its user normalises.

    MoCo v2 (arXiv 2003.04297): two layers, no batch norm. SimCLR (arXiv 2002.05709): two layers
    (v2, arXiv 2006.10029: three), batch norm behind all of them, the last one too.

    Args:
        feature_dim: length of what goes in.
        hidden_dim: width of every layer but the last.
        output_dim: length of what comes out.
        num_layers: linear layers, a ReLU between two.
        batch_norm: behind every layer but the last; such a layer has no bias.
        last_batch_norm: behind the last layer, which then has no bias.

    Raises:
        InputError: no layer at all.
    """
    if num_layers < 1:
        raise InputError(f"a projection head of {num_layers} layers: wanted 1 or more")
    layers: list[nn.Module] = []
    width = feature_dim
    for index in range(num_layers):
        last = index == num_layers - 1
        normed = last_batch_norm if last else batch_norm
        following = output_dim if last else hidden_dim
        layers.append(nn.Linear(width, following, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(following))
        if not last:
            layers.append(nn.ReLU(inplace=True))
        width = following
    return nn.Sequential(*layers)


def torchvision_state_dict(backbone: Backbone) -> dict[str, torch.Tensor]:
    """The weights as plain torchvision names and shapes them, without `fc.*`.

    Returns:
        Detached copies; a small stem's 3 x 3 kernel stands in the centre of 7 x 7 zeros. With the
        same stride and padding 3 instead of 1 that is the same convolution.
    """
    state = {name: value.detach().clone() for name, value in backbone.network.state_dict().items()}
    if state[STEM_WEIGHT].shape[-1] == 3:
        state[STEM_WEIGHT] = F.pad(state[STEM_WEIGHT], (STEM_PADDING,) * 4)
    return state


def initial_weights(config: EncoderConfig, init: str) -> Mapping[str, torch.Tensor]:
    """The state dict that `init` names; see `EncoderConfig.init`."""
    if init == "torchvision" or init.startswith("torchvision:"):
        return published_weights(config.architecture, init.partition(":")[2] or "DEFAULT")
    path = Path(init)
    if path.is_dir():
        network, info = load_backbone(path)
        if (info.architecture, info.max_pool) != (config.architecture, config.max_pool):
            raise InputError(
                f"init {init} is a {info.architecture} with max_pool {info.max_pool}, wanted "
                f"{config.architecture} with max_pool {config.max_pool}: change the encoder, "
                "or choose another export"
            )
        return network.state_dict()
    if not path.is_file():
        raise InputError(
            f"init {init}: no such file or folder; wanted torchvision, torchvision:NAME, "
            "a local state dict (.pth) or the folder of an exported backbone"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        raise InputError(
            f"init {init} is not a state dict that torch.load(weights_only=True) reads: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, Mapping) else type(state)
        raise InputError(
            f"init {init} is no plain torchvision state dict (name -> tensor); it holds: {found}"
        )
    return state


def published_weights(architecture: str, name: str) -> Mapping[str, torch.Tensor]:
    """Torchvision's weights of that name, from its cache or the network."""
    enum = torchvision.models.get_model_weights(architecture)
    if name != "DEFAULT" and name not in enum.__members__:
        raise InputError(
            f"torchvision has no weights {name!r} for {architecture}: "
            f"wanted one of {', '.join(enum.__members__)}"
        )
    weights = enum[name] if name != "DEFAULT" else enum.DEFAULT
    try:
        state: Mapping[str, torch.Tensor] = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a broken download
        raise InputError(
            f"could not fetch torchvision's {architecture} weights {weights.name} ({error}): give "
            "init a local file (a .pth state dict downloaded elsewhere), or run where there is "
            f"network (once: the file then stays in {torch.hub.get_dir()}/checkpoints)"
        ) from error
    return state


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], *, source: str) -> None:
    """Copy torchvision weights into the network; `fc.*` is left out.

    Raises:
        InputError: names the first key that is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    given = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    stem = given.get(STEM_WEIGHT)
    if stem is not None and stem.shape[-1] == 7 and wanted[STEM_WEIGHT].shape[-1] == 3:
        if not has_small_stem(given):
            raise InputError(
                f"init {source}: {STEM_WEIGHT!r} is a full {list(stem.shape)} kernel and does not "
                "fit a small stem [64, 3, 3, 3]: use the standard stem"
            )
        given[STEM_WEIGHT] = centre_of(stem)
    for name, value in wanted.items():
        if name.endswith("num_batches_tracked"):  # absent from weights made before torch 0.4.1
            given.setdefault(name, value)
        if name not in given:
            raise InputError(f"init {source} has no {name!r}: weights of another network?")
        if given[name].shape != value.shape:
            raise InputError(
                f"init {source}: {name!r} is {list(given[name].shape)}, "
                f"the encoder wants {list(value.shape)}"
            )
    unknown = [name for name in given if name not in wanted]
    if unknown:
        raise InputError(f"init {source} has {unknown[0]!r}, which the encoder does not have")
    network.load_state_dict(given, strict=True)


def has_small_stem(weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether a torchvision state dict's stem is 3 x 3, or 7 x 7 and zero around its 3 x 3."""
    kernel = weights[STEM_WEIGHT]
    if kernel.shape[-1] == 3:
        return True
    return torch.equal(F.pad(centre_of(kernel), (STEM_PADDING,) * 4), kernel)


def centre_of(kernel: torch.Tensor) -> torch.Tensor:
    """The centre [64, 3, 3, 3] of a stem's kernel [64, 3, 7, 7]."""
    return kernel[:, :, STEM_PADDING:-STEM_PADDING, STEM_PADDING:-STEM_PADDING]
