"""Weights by name, file or folder: torchvision's, a state dict, or an exported backbone."""

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn

from pipeline.backbone.folder import NOT_A_WEIGHT, load_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import TIMM, first_line
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing

FETCH_SECONDS = 30
"""A firewall may answer nothing at all."""
OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
"""Names in torchvision's DenseNet files, which its networks write without the dot."""
WANTED = "a local state dict (.pth) or the folder of an exported backbone (RUN/backbone)"


class Weights(NamedTuple):
    """Tensors by the library's names, which may hold a classifier.

    `preprocessing` is that of their training, `export` the description of the exported backbone
    that they come from; None: not known, not from one.
    """

    state: Mapping[str, Tensor]
    preprocessing: Preprocessing | None = None
    export: BackboneInfo | None = None


def find_weights(place: str, architecture: str, *, max_pool: bool | None = None) -> Weights:
    """Load weights for a network.

    Args:
        place: the folder of an exported backbone, of a run or of a checkpoint; a state dict's file;
            torchvision's name of weights, alone or as `torchvision:NAME`; `torchvision`: its
            default ones.
        architecture: name of the network; empty: whatever the folder holds.
        max_pool: whether an export must have its maximum pooling; None: either.

    Raises:
        InputError: there is no such thing, it cannot be fetched, or it is of another network.
    """
    path = Path(place).expanduser()
    if path.is_file():
        return Weights(read_state_dict(path))
    if not path.is_dir():
        library, _, name = place.partition(":")
        if library != "torchvision" and ("/" in place or place.endswith((".pth", ".pt"))):
            raise InputError(
                f"no weights at {place}: no such file or folder; wanted {WANTED}, torchvision or "
                "torchvision:NAME"
            )
        return published_weights(
            architecture, (name or "DEFAULT") if library == "torchvision" else place
        )
    network, info = load_backbone(path)
    same_pool = max_pool in (None, info.max_pool)
    if architecture not in ("", info.architecture) or not same_pool:
        wanted = architecture if same_pool else f"{architecture} with max_pool {max_pool}"
        raise InputError(
            f"{place} is a {info.architecture} with max_pool {info.max_pool}, wanted {wanted}: "
            "choose another export, or another network"
        )
    return Weights(network.state_dict(), info.preprocessing, info)


def published_weights(architecture: str, name: str) -> Weights:
    """Load torchvision's weights of that name from its cache or from its server.

    Raises:
        InputError: torchvision does not have them, or they cannot be fetched.
    """
    if architecture.startswith(TIMM):
        raise InputError(
            f"torchvision has no weights for {architecture}: save "
            f"timm.create_model({architecture.removeprefix(TIMM)!r}, pretrained=True).state_dict() "
            "with torch.save and name that file"
        )
    names = torchvision.models.get_model_weights(architecture)
    if name not in names.__members__:
        raise InputError(
            f"torchvision has no weights {name!r} for {architecture}: wanted one of "
            f"{', '.join(names.__members__)}, {WANTED}"
        )
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_SECONDS)
    try:
        state = names[name].get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network; a broken download
        raise InputError(
            f"torchvision's weights {names[name].name} of {architecture} cannot be fetched "
            f"({first_line(error)}): name {WANTED} instead, or run once where there is a network: "
            f"the file then stays in {torch.hub.get_dir()}/checkpoints"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    wanted = names[name].transforms()
    crop, resize = wanted.crop_size[0], wanted.resize_size[0]
    mean, std = tuple(wanted.mean), tuple(wanted.std)
    seen = Preprocessing(view_size=crop, resize=max(crop, resize), mean=mean, std=std)
    return Weights(state, seen)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name, or of a `state_dict` entry with them.

    `module.` in front of all names, which DistributedDataParallel adds, is removed.

    Raises:
        InputError: not such a file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        raise InputError(
            f"{path} is not a state dict that torch.load(weights_only=True) reads: "
            f"{first_line(error)}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"{path} holds no tensors by name but {type(state).__name__}")
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise InputError(
            f"{path} is no plain state dict: {str(foreign[0])!r} is no tensor; "
            "save network.state_dict() alone"
        )
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def load_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    *,
    architecture: str,
    source: str,
    leave_out: tuple[str, ...],
) -> None:
    """Copy weights, as the library names and shapes them, into a network.

    Batch norm's counters may be absent, as in old files.

    Args:
        network: takes the weights.
        state: the weights.
        architecture: name of the network, for messages.
        source: of the weights, for messages.
        leave_out: modules whose weights are not for the network: the library's classifier.

    Raises:
        InputError: names the first tensor that is missing, unknown or of another shape.
    """
    wanted = network.state_dict()
    prefixes = tuple(f"{name}." for name in leave_out)
    given = {
        OLD_DENSENET.sub(r"\1\2", name): value
        for name, value in state.items()
        if not name.startswith(prefixes)
    }
    wrong = []
    missing = [n for n in wanted if n not in given and not n.endswith(NOT_A_WEIGHT)]
    if missing:
        wrong.append(f"{len(missing)} are missing, first {missing[0]!r}")
    unknown = [name for name in given if name not in wanted]
    if unknown:
        wrong.append(f"{len(unknown)} are unknown, first {unknown[0]!r}")
    other = [n for n, value in wanted.items() if n in given and given[n].shape != value.shape]
    if other:
        shapes = f"{list(given[other[0]].shape)} instead of {list(wanted[other[0]].shape)}"
        wrong.append(f"{len(other)} have another shape, first {other[0]!r} {shapes}")
    if wrong:
        raise InputError(
            f"the tensors of {source} do not fit {architecture}: {'; '.join(wrong)}: name the "
            "network they belong to (--encoder.architecture, --saliency.network)"
        )
    network.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})
