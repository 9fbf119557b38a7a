"""The networks of `scda` up to their last convolutional block, and where their weights are from."""

import socket
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from pipeline.backbone.folder import NOT_A_WEIGHT, load_backbone, weights_digest
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocessing, short_side

LAST_BLOCK: dict[str, tuple[str, ...]] = {
    "resnet": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    "convnext": ("features",),
    "densenet": ("features",),
    "efficientnet": ("features",),
    "mnasnet": ("layers",),
    "mobilenetv2": ("features",),
    "mobilenetv3": ("features",),
    "regnet": ("stem", "trunk_output"),
    "shufflenetv2": ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    "vgg": ("features",),
}
"""By torchvision's module: the children that lead to the last block's feature map, in order."""
DEFAULT_NETWORK = "resnet50"
RANDOM_SEED = 0
FETCH_SECONDS = 30
VIEW_SIZE = 224


@dataclass(frozen=True)
class Trunk:
    """A network up to its last convolutional block.

    Attributes:
        module: float images [B, 3, H, W] -> features [B, C, H / 32, W / 32], evaluation mode.
        weights: their name, without the folder they lie in.
        network: torchvision's name.
        preprocessing: what the weights want to see.
        exported: whether they come from a pretraining run's export.
        max_pool: whether torchvision's maximum pooling is in place.
        weights_digest: see `pipeline.backbone.folder.weights_digest`.
    """

    module: nn.Module
    weights: str
    network: str
    preprocessing: Preprocessing
    exported: bool
    max_pool: bool
    weights_digest: str


def load_trunk(weights: str, network: str) -> Trunk:
    """Load a network's convolutional part.

    Args:
        weights: torchvision's name of weights, a state dict's file, an export's folder, `random`.
        network: torchvision's name of the network; empty: resnet50, or what the export is.

    Raises:
        InputError: a network without known feature map; weights that are not there, cannot be
            fetched, do not fit or are not finite.
    """
    path = Path(weights).expanduser()
    preprocessing = Preprocessing(view_size=VIEW_SIZE, resize=short_side(VIEW_SIZE))
    max_pool = True
    if path.is_dir():
        whole, info = load_backbone(path)
        if network not in ("", info.architecture):
            raise InputError(
                f"scda: {weights} is a {info.architecture}, not the {network} asked for: "
                "leave the network out, or choose another export"
            )
        network, preprocessing, max_pool = info.architecture, info.preprocessing, info.max_pool
        module = _up_to_last_block(whole, network)
    else:
        network = network or DEFAULT_NETWORK
        refuse_unknown_network(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            whole = torchvision.models.get_model(network, weights=None)
        module = _up_to_last_block(whole, network)
        if path.is_file():
            _load(module, whole, read_state_dict(path), source=str(path), network=network)
        elif weights != "random":
            state, preprocessing = _published(weights, network)
            _load(module, whole, state, source=f"torchvision's {weights}", network=network)
    _refuse_not_finite(module, weights)
    return Trunk(
        module=module.eval().requires_grad_(False),
        weights=path.name,
        network=network,
        preprocessing=preprocessing,
        exported=path.is_dir(),
        max_pool=max_pool,
        weights_digest=weights_digest(module.state_dict()),
    )


def refuse_unknown_network(network: str) -> None:
    """Raise InputError for a network whose last convolutional block is not known."""
    known = torchvision.models.list_models(module=torchvision.models)
    if network not in known:
        raise InputError(f"scda: torchvision has no network {network!r}: resnet50 is one")
    if _family(network) not in LAST_BLOCK:
        raise InputError(
            f"scda: {network} has no last convolutional feature map that this program knows: "
            f"wanted a network of torchvision's {', '.join(LAST_BLOCK)}"
        )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a file of named tensors; `module.` in front of all names (DDP) is taken away.

    Raises:
        InputError: not such a file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can fail in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"scda: {path} is not a state dict that torch.load(weights_only=True) reads: {reason}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise InputError(f"scda: {path} holds no tensors by name but {type(state).__name__}")
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise InputError(
            f"scda: {path} is no plain state dict: {str(foreign[0])!r} is no tensor; "
            "save network.state_dict() alone"
        )
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): value for name, value in state.items()}
    return dict(state)


def _family(network: str) -> str:
    builder = torchvision.models.get_model_builder(network)
    return str(builder.__module__).rpartition(".")[2]


def _up_to_last_block(whole: nn.Module, network: str) -> nn.Module:
    children = LAST_BLOCK[_family(network)]
    return nn.Sequential(OrderedDict((name, whole.get_submodule(name)) for name in children))


def _published(weights: str, network: str) -> tuple[Mapping[str, Tensor], Preprocessing]:
    """Torchvision's weights of that name, from its cache or its server, and their view."""
    names = torchvision.models.get_model_weights(network)
    if "/" in weights or "\\" in weights or weights.endswith((".pth", ".pt")):
        raise InputError(f"scda: no weights at {weights}: wanted a file or an export's folder")
    if weights not in names.__members__:
        raise InputError(
            f"scda: {network} has no weights {weights!r} in torchvision: wanted one of "
            f"{', '.join(names.__members__)}, random, a local file or an exported backbone's folder"
        )
    chosen = names[weights]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(FETCH_SECONDS)  # a firewall may answer nothing at all
    try:
        state = chosen.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # not there; came damaged
        raise InputError(
            f"scda: torchvision's weights {weights} of {network} cannot be fetched ({error}): "
            "without a network give a local file (--saliency scda:weights=FILE.pth) or the "
            "exported backbone of a pretraining run of your own "
            "(--saliency scda:weights=RUN/backbone)"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    wanted = chosen.transforms()
    crop, resize = wanted.crop_size[0], wanted.resize_size[0]
    return state, Preprocessing(
        view_size=crop, resize=max(crop, resize), mean=tuple(wanted.mean), std=tuple(wanted.std)
    )


def _load(
    module: nn.Module, whole: nn.Module, given: Mapping[str, Tensor], *, source: str, network: str
) -> None:
    """Load what belongs to the convolutional part; a classifier may be there or not."""
    wanted, known = module.state_dict(), whole.state_dict()
    wrong = []
    missing = [n for n in wanted if n not in given and not n.endswith(NOT_A_WEIGHT)]
    if missing:
        wrong.append(f"{len(missing)} are missing, first {missing[0]!r}")
    unexpected = [n for n in given if n not in known]
    if unexpected:
        wrong.append(f"{len(unexpected)} are unknown, first {unexpected[0]!r}")
    other = [n for n, value in wanted.items() if n in given and given[n].shape != value.shape]
    if other:
        shapes = f"{list(given[other[0]].shape)} instead of {list(wanted[other[0]].shape)}"
        wrong.append(f"{len(other)} have another shape, first {other[0]!r} {shapes}")
    if wrong:
        raise InputError(
            f"scda: the tensors of {source} do not fit torchvision's {network}: "
            f"{'; '.join(wrong)}: name the network they belong to (--saliency.network)"
        )
    module.load_state_dict({name: given.get(name, value) for name, value in wanted.items()})


def _refuse_not_finite(module: nn.Module, weights: str) -> None:
    for name, value in module.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(
                f"scda: {name!r} of the weights {weights} holds values that are not finite: "
                "the training that made them has diverged"
            )
