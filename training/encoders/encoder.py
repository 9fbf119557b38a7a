"""The encoder: a ConvNet of torchvision or timm without its classifier, and its head.

Shapes: B batch, C channels, H W pixels, D features.
"""

from typing import Any

from torch import Tensor, nn

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
