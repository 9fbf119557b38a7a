"""Weights to start from: torchvision's published ones, a local file, an exported backbone."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torchvision
from torch import nn

from pipeline.backbone.folder import load_backbone
from pipeline.core.architectures import TIMM, classifier_names, first_line, stem_name
from pipeline.core.errors import InputError
from training.encoders.stem import centre_of, is_padded

OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
"""Names in torchvision's DenseNet files, which its networks write without the dot."""


def initial_weights(
    init: str, architecture: str, *, max_pool: bool = True
) -> Mapping[str, torch.Tensor]:
    """The state dict that `init` names; see `EncoderConfig.init`.

    Raises:
        InputError: there is no such thing, or it belongs to another network.
    """
    if init == "torchvision" or init.startswith("torchvision:"):
        return published_weights(architecture, init.partition(":")[2] or "DEFAULT")
    path = Path(init)
    if not path.is_dir():
        return state_dict_of(path)
    network, info = load_backbone(path)
    if (info.architecture, info.max_pool) != (architecture, max_pool):
        raise InputError(
            f"init {init} is a {info.architecture} with max_pool {info.max_pool}, wanted "
            f"{architecture} with max_pool {max_pool}: change the encoder, or choose another export"
        )
    return network.state_dict()


def state_dict_of(path: Path) -> Mapping[str, torch.Tensor]:
    """The state dict in a file that `torch.save` wrote; raises InputError for anything else."""
    if not path.is_file():
        raise InputError(
            f"init {path}: no such file or folder; wanted torchvision, torchvision:NAME, "
            "a local state dict (.pth) or the folder of an exported backbone"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        raise InputError(
            f"init {path} is not a state dict that torch.load(weights_only=True) reads: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        found = ", ".join(map(str, list(state)[:5])) if isinstance(state, Mapping) else type(state)
        raise InputError(f"init {path} is no plain state dict (name -> tensor); it holds: {found}")
    return state


def published_weights(architecture: str, name: str) -> Mapping[str, torch.Tensor]:
    """Torchvision's weights of that name, from its cache or the network."""
    if architecture.startswith(TIMM):
        raise InputError(
            f"torchvision has no weights for {architecture}: save "
            f"timm.create_model({architecture.removeprefix(TIMM)!r}, pretrained=True).state_dict() "
            "with torch.save and give init that file"
        )
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


def load_weights(
    network: nn.Module, weights: Mapping[str, torch.Tensor], architecture: str, *, source: str
) -> None:
    """Copy weights into a plain network; the library's classifier is left out.

    Args:
        network: as `plain_network` made it, its stem small or not.
        weights: as the library names and shapes them.
        architecture: of the network.
        source: of the weights, for messages.

    Raises:
        InputError: names the first key that is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    classifiers = tuple(f"{name}." for name in classifier_names(architecture))
    given = {
        OLD_DENSENET.sub(r"\1\2", name): value
        for name, value in weights.items()
        if not name.startswith(classifiers)
    }
    stem = f"{stem_name(network)}.weight"
    if stem in given and (given[stem].shape[-1], wanted[stem].shape[-1]) == (7, 3):
        if not is_padded(given[stem]):
            raise InputError(
                f"init {source}: {stem!r} is a full {list(given[stem].shape)} kernel and does not "
                f"fit a small stem {list(wanted[stem].shape)}: use the standard stem"
            )
        given[stem] = centre_of(given[stem])
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
