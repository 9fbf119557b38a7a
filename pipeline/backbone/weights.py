"""Weights by name, file or folder: torchvision's, timm's, a state dict, an exported backbone."""

import importlib
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.backbone.folder import NOT_A_WEIGHT, find_export, load_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import TIMM, check_architecture, first_line, import_timm
from pipeline.core.errors import InputError, check
from pipeline.core.tensors import read_tensors
from pipeline.core.vision import torchvision
from pipeline.images.preprocessing import Preprocessing
from pipeline.storage.storage import is_url

FETCH_SECONDS = 30
"""A firewall may answer nothing at all."""
LIBRARIES = ("torchvision", "timm")
OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\..*)")
"""Names in torchvision's DenseNet files, which its networks write without the dot."""
WANTED = "a local state dict (.pth), or the folder of a run or of an exported backbone"


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
            torchvision's name of weights, alone or as `torchvision:NAME`, or `timm:NAME`, timm's
            name of a network with weights; `torchvision`, `timm`: the default ones.
        architecture: name of the network; empty: whatever the folder holds.
        max_pool: whether an export must have its maximum pooling; None: either.

    Raises:
        InputError: there is no such thing, it cannot be fetched, or it is of another network.
    """
    path = find_export(place) if is_url(place) else Path(place).expanduser()
    if path.is_file():
        return Weights(read_state_dict(path))
    if not path.is_dir():
        library, _, name = place.partition(":")
        check(
            library in LIBRARIES or not ("/" in place or place.endswith((".pth", ".pt"))),
            f"no weights at {place}: no such file or folder; wanted {WANTED}, torchvision:NAME or "
            "timm:NAME",
        )
        if library == "timm":
            return timm_weights(name or architecture.removeprefix(TIMM))
        return published_weights(
            architecture, (name or "DEFAULT") if library == "torchvision" else place
        )
    network, info = load_backbone(path)
    check(
        not info.channels,
        f"{place} is a {info.architecture} with fewer inner channels (--channels), which this "
        "cannot start from: choose the run or export that it was made from",
    )
    same_pool = max_pool in (None, info.max_pool)
    wanted = architecture if same_pool else f"{architecture} with max_pool {max_pool}"
    check(
        architecture in ("", info.architecture) and same_pool,
        f"{place} is a {info.architecture} with max_pool {info.max_pool}, wanted {wanted}: "
        "choose another export, or another network",
    )
    return Weights(network.state_dict(), info.preprocessing, info)


def published_weights(architecture: str, name: str) -> Weights:
    """Load torchvision's weights of that name from its cache or server, or raise `InputError`."""
    check(
        not architecture.startswith(TIMM),
        f"torchvision has no weights for {architecture}: name those of timm (timm)",
    )
    names = torchvision.models.get_model_weights(architecture)
    known = ", ".join(names.__members__)
    check(
        name in names.__members__,
        f"torchvision has no weights {name!r} for {architecture}: wanted one of {known}, {WANTED}",
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
    seen = names[name].transforms()
    crop, resize = seen.crop_size[0], max(seen.crop_size[0], seen.resize_size[0])
    seen = Preprocessing(view_size=crop, resize=resize, mean=tuple(seen.mean), std=tuple(seen.std))
    return Weights(state, seen)


def timm_weights(name: str) -> Weights:
    """Load the weights of timm's network of that name from the Hugging Face Hub or its cache.

    Raises:
        InputError: timm is not installed, has no such network or no weights of it, or they cannot
            be fetched.
    """
    place = f"{TIMM}{name}"
    check_architecture(place)
    timm = import_timm(place)
    kind = name.partition(".")[0]
    tags = timm.list_pretrained([kind, f"{kind}.*"])
    known = ", ".join(tags) or "another network"
    fits = bool(tags) if name == kind else name in tags
    check(fits, f"timm has no weights {name!r}: wanted one of {known}, {WANTED}")
    try:
        _find_on_hub(timm.models.get_pretrained_cfg(name).hf_hub_id)
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # no network, a broken download: the Hub raises many kinds
        raise InputError(
            f"timm's weights {name} cannot be fetched from the Hugging Face Hub "
            f"({first_line(error)}): name {WANTED} instead, or run once where there is a network: "
            "the file then stays in the Hub's cache (HF_HOME)"
        ) from error
    seen = network.pretrained_cfg
    side = seen["input_size"][1]
    return Weights(
        network.state_dict(),
        Preprocessing(
            view_size=side,
            resize=max(side, round(side / seen["crop_pct"])),
            mean=tuple(seen["mean"]),
            std=tuple(seen["std"]),
        ),
    )


def _find_on_hub(repository: str | None) -> None:
    """Raise at once where the Hub does not answer; a download would be tried for a minute."""
    hub = importlib.import_module("huggingface_hub")
    if repository and not hub.try_to_load_from_cache(repository, "model.safetensors"):
        hub.HfApi().model_info(repository, timeout=FETCH_SECONDS)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of tensors by name, or of a `state_dict` entry with them.

    `module.` in front of all names, which DistributedDataParallel adds, is removed. Raises
    `InputError` for any other file.
    """
    try:
        state = read_tensors(path)
    except ValueError as error:
        raise InputError(
            f"{path} is not a state dict that torch.load(weights_only=True) reads: {error}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    check(
        isinstance(state, Mapping) and len(state) > 0,
        f"{path} holds no tensors by name but {type(state).__name__}",
    )
    fits = ((str(n), isinstance(n, str) and isinstance(v, Tensor)) for n, v in state.items())
    foreign = next((name for name, one_fits in fits if not one_fits), None)
    check(
        foreign is None,
        f"{path} is no plain state dict: {foreign!r} is no tensor; save network.state_dict() alone",
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

    Batch norm's counters may be absent, as in old files. `leave_out` names modules whose weights
    are not for the network: the library's classifier. `source` is for messages.

    Raises:
        InputError: names the first tensor that is missing, unknown or of another shape.
    """
    wanted, prefixes = network.state_dict(), tuple(f"{name}." for name in leave_out)
    given = {
        OLD_DENSENET.sub(r"\1\2", name): value
        for name, value in state.items()
        if not name.startswith(prefixes)
    }
    faults = {
        "are missing": [repr(n) for n in wanted if n not in given and not n.endswith(NOT_A_WEIGHT)],
        "are unknown": [repr(name) for name in given if name not in wanted],
        "have another shape": [
            f"{n!r} {list(given[n].shape)} instead of {list(value.shape)}"
            for n, value in wanted.items()
            if n in given and given[n].shape != value.shape
        ],
    }
    wrong = [f"{len(names)} {fault}, first {names[0]}" for fault, names in faults.items() if names]
    check(
        not wrong,
        f"the tensors of {source} do not fit {architecture}: {'; '.join(wrong)}: name the network "
        "they belong to (--encoder.architecture, or --saliency scda:network=NAME)",
    )
    network.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})
