"""The exported backbone: a folder that plain torchvision or timm loads, with its preprocessing.

`backbone.pth` is a state dict of the library's network without its classifier; `backbone.json`
names the network and how an image must be prepared for it; `README.md` tells people the same
(`card.py`); other formats may lie beside them (`formats.py`). Without the maximum pooling behind
the stem (`"max_pool": false`) the loader replaces it by an identity:

    network = torchvision.models.resnet18()
    network.fc = torch.nn.Identity()  # pipeline/core/architectures.py lists the others' classifiers
    network.load_state_dict(torch.load("backbone.pth", weights_only=True), strict=True)

With fewer inner channels (`"channels"`) the network is narrowed first (`channels.py`).
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.backbone.card import Figure, model_card
from pipeline.backbone.channels import narrow
from pipeline.backbone.formats import FORMATS, chosen_formats
from pipeline.backbone.info import FORMAT_VERSION, BackboneInfo
from pipeline.core.architectures import NoInitialWeights, first_line, plain_network
from pipeline.core.errors import InputError, check
from pipeline.core.faults import point
from pipeline.core.plain import fitted, parse
from pipeline.core.tensors import read_tensors
from pipeline.storage.atomic import errors_naming
from pipeline.storage.storage import fetched

WEIGHTS_NAME, INFO_NAME, CARD_NAME = "backbone.pth", "backbone.json", "README.md"
NOT_A_WEIGHT = "num_batches_tracked"
"""Batch norm's counter: it decides nothing at test time, and old files lack it."""
BACKBONE_FOLDER = "backbone"
"""Where a run and each of its checkpoints keep their export."""
EARLIER_ENTRY = "hugging_face"
"""A format of earlier versions."""


def write_backbone(
    folder: Path | str,
    state_dict: Mapping[str, Tensor],
    info: BackboneInfo,
    *,
    formats: Sequence[str] = (),
    figures: Sequence[Figure] = (),
) -> BackboneInfo:
    """Write an export, whole or not at all; an earlier export of that name is replaced.

    `state_dict` is that of `plain_network(info.architecture)`, on any device; `formats` (names of
    `FORMATS`) are written beside it; `figures` are results for the model card.

    Returns:
        `info` with the digest of the weights.

    Raises:
        InputError: the folder holds something other than an export; an unknown format, or one
            that this network has no layout in or whose library is not installed.
    """
    folder = Path(folder)
    refuse_foreign(folder)
    chosen = chosen_formats(formats, info)
    info = dataclasses.replace(info, weights_sha256=weights_digest(state_dict))
    size = str(info.preprocessing.view_size)
    usages = {name: one.usage.replace("{size}", size) for name, one in chosen.items()}
    weights = io.BytesIO()
    torch.save({n: value.detach().cpu().contiguous() for n, value in state_dict.items()}, weights)
    contents = {
        WEIGHTS_NAME: weights.getvalue(),
        CARD_NAME: model_card(info, usages=usages, figures=figures).encode(),
        INFO_NAME: (json.dumps(dataclasses.asdict(info), indent=2) + "\n").encode(),
    }
    with errors_naming(folder), _replacing(folder) as fresh:
        if chosen:
            network, _ = _empty_network(info)
            network.load_state_dict(state_dict)
            for one in chosen.values():
                one.write(fresh / one.entry, network.eval(), info)
        for name, content in contents.items():
            with (fresh / name).open("wb") as file:
                file.write(content)
                point("write", name)
                file.flush()
                os.fsync(file.fileno())
    return info


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder that replaces the other one when the block succeeds."""
    fresh = folder.with_name(f".{folder.name}.writing")
    previous = folder.with_name(f".{folder.name}.previous")
    point("create", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (fresh, previous):  # of a run that was killed here
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        if folder.exists():  # a folder that is not empty cannot be replaced in one rename
            point("rename", previous)
            folder.rename(previous)
        point("rename", folder)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def weights_digest(state_dict: Mapping[str, Tensor]) -> str:
    """sha256 of the names, types, shapes and values of a state dict's tensors, sorted by name.

    The same for a run, its checkpoint, an export in any format that keeps the names, and a state
    dict file: strides, the order of names and batch norm's counters do not matter.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        if not name.endswith(NOT_A_WEIGHT):
            value = state_dict[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_foreign(folder: Path) -> None:
    """Raise InputError where an export would overwrite something else."""
    own = {WEIGHTS_NAME, INFO_NAME, CARD_NAME, EARLIER_ENTRY, *(f.entry for f in FORMATS.values())}
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if folder.exists() and (foreign := sorted(found - own)):
        raise InputError(
            f"{folder} holds {foreign[0]!r}, which is no part of an exported backbone: "
            "choose another folder"
        )


def load_backbone(path: Path | str) -> tuple[nn.Module, BackboneInfo]:
    """Load an export.

    Args:
        path: the export's folder, or that of a checkpoint or a run that has one.

    Returns:
        The library's network ([B, C, S, S] -> [B, feature_dim]) in evaluation mode on the CPU,
        and the content of its JSON, always with `weights_digest` as the digest.

    Raises:
        InputError: a missing or damaged file, another format version, no preprocessing, a timm
            network where timm is not installed.
    """
    folder = find_export(path)
    info = load_info(folder)
    weights_file = folder / WEIGHTS_NAME
    check(weights_file.is_file(), f"{folder} has no {WEIGHTS_NAME}: export the backbone again")
    weights, digest = _read_weights(weights_file, info)
    try:
        network, feature_dim = _empty_network(info)
    except InputError as error:
        raise InputError(f"{folder / INFO_NAME}: {error}") from error
    check(
        feature_dim == info.feature_dim,
        f"{folder / INFO_NAME} says feature_dim {info.feature_dim}, {info.architecture} has "
        f"{feature_dim}",
    )
    try:
        network.load_state_dict(weights, strict=True)
    except Exception as error:  # the digest holds, so the file was written with other names
        raise InputError(
            f"{weights_file} does not fit {info.architecture}: {first_line(error)}"
        ) from error
    return network.eval(), dataclasses.replace(info, weights_sha256=digest)


def _empty_network(info: BackboneInfo) -> tuple[nn.Module, int]:
    """The network that weights are loaded into, and the length of its features."""
    with NoInitialWeights():
        network, feature_dim = plain_network(
            info.architecture, max_pool=info.max_pool, channels=info.pixels.channels
        )
    narrow(network, info.architecture, info.channels)
    return network, feature_dim


def _read_weights(file: Path, info: BackboneInfo) -> tuple[Mapping[str, Tensor], str]:
    """The state dict of an export and its digest, checked against the JSON's."""
    data = file.read_bytes()
    try:
        weights: Mapping[str, Tensor] = read_tensors(io.BytesIO(data))
        found = weights_digest(weights)
    except Exception as error:  # a damaged or foreign file can fail in any way
        found = hashlib.sha256(data).hexdigest()
        if info.weights_sha256 == found:
            raise InputError(f"{file} is no state dict: {first_line(error)}") from error
    check(  # an earlier version wrote the digest of the file
        info.weights_sha256 == found or info.weights_sha256 == hashlib.sha256(data).hexdigest(),
        f"{file} has digest {found[:12]}, {INFO_NAME} says {info.weights_sha256[:12]}: "
        "damaged, or of another export; export it again",
    )
    return weights, found


def find_export(path: Path | str) -> Path:
    """The folder of an export: the path itself, or its `backbone` (of a checkpoint or a run).

    Of one in a bucket it is a local copy.
    """
    own = (INFO_NAME, WEIGHTS_NAME)
    folder = fetched(path, *own, *(f"{BACKBONE_FOLDER}/{name}" for name in own))
    if not (folder / INFO_NAME).exists() and (folder / BACKBONE_FOLDER).is_dir():
        return folder / BACKBONE_FOLDER
    return folder


def load_info(folder: Path) -> BackboneInfo:
    """Read an export's JSON alone; raises InputError as `load_backbone` does."""
    file = folder / INFO_NAME
    check(folder.is_dir(), f"no folder {folder}: wanted a run or an exported backbone")
    check(
        file.is_file(),
        f"{folder} has no {INFO_NAME}: wanted the folder of an exported backbone, of a run or of a "
        "checkpoint; weights without it have lost their preprocessing, export them again",
    )
    try:
        given = parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no JSON: {error}") from error
    version = given.get("format_version") if isinstance(given, dict) else None
    check(
        version == FORMAT_VERSION,
        f"{file} is of format version {version}, this program reads {FORMAT_VERSION}: "
        "export the backbone again with this version",
    )
    wanted = given.get("preprocessing")
    check(
        bool(wanted),
        f"{file} has no preprocessing: without it the features would be wrong; export it again",
    )
    try:
        if not (isinstance(wanted, dict) and {"mean", "std"} <= wanted.keys()):
            raise ValueError("its preprocessing has no mean or no std")
        return fitted(BackboneInfo, given)
    except ValueError as error:
        raise InputError(f"{file} is incomplete or damaged: {error}") from error
