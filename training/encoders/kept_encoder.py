"""The encoders that a run keeps, by name: the query encoder, and the momentum one.

A run's export is the query encoder. Its checkpoints hold the momentum encoder as well (the keys'
of MoCo, the target of BYOL), from which the export is made here.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from torch import Tensor, device, nn

from pipeline.backbone.folder import BACKBONE_FOLDER, load_backbone, load_info, weights_digest
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.core.errors import InputError
from training.core.checkpoint import STATE_FILE, CheckpointStore, load_state, read_config
from training.core.fields import dotted
from training.encoders.encoder import build_backbone, plain_state_dict
from training.encoders.settings import EncoderConfig

EncoderName = Literal["query", "momentum"]
MOMENTUM_PREFIXES = ("key_encoder.backbone.", "target.backbone.")
"""Where the methods' states hold a momentum encoder's backbone."""


def load_encoder(path: Path, name: EncoderName = "query") -> tuple[nn.Module, BackboneInfo]:
    """Load an encoder of a run.

    Args:
        path: a run (its newest checkpoint), a checkpoint; for the query encoder also an export.
        name: which encoder.

    Returns:
        As `load_backbone`; the info's provenance says which encoder it is.

    Raises:
        InputError: as `load_backbone`; no checkpoint there, or a method without momentum encoder.
    """
    if name == "query":
        return load_backbone(path)
    checkpoint = find_checkpoint(path)
    method = load_state(checkpoint, device("cpu"))["method"]
    for prefix in MOMENTUM_PREFIXES:
        weights = {k.removeprefix(prefix): v for k, v in method.items() if k.startswith(prefix)}
        if weights:
            return _plain(checkpoint, weights)
    method_name = dotted(read_config(checkpoint)).get("method.name")
    raise InputError(
        f"{checkpoint} holds no momentum encoder ({method_name} has none): take the query encoder"
    )


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a path names: itself, or a run's newest.

    Raises:
        InputError: neither.
    """
    if (path / STATE_FILE).is_file():
        return path
    latest = CheckpointStore(path / "checkpoints", keep=1).latest()
    if latest is None:
        raise InputError(
            f"{path} is no checkpoint, and no run with one: the momentum encoder is kept in "
            "checkpoints only (an exported folder holds the query encoder)"
        )
    return latest


def _plain(checkpoint: Path, weights: dict[str, Tensor]) -> tuple[nn.Module, BackboneInfo]:
    info = load_info(checkpoint / BACKBONE_FOLDER)
    recorded = read_config(checkpoint)["encoder"] | {"init": None, "compile": False}
    backbone = build_backbone(EncoderConfig(**recorded))
    backbone.load_state_dict(weights)
    state = plain_state_dict(backbone)
    network, _ = plain_network(info.architecture, max_pool=info.max_pool)
    network.load_state_dict(state)
    return network.eval(), dataclasses.replace(
        info,
        provenance=info.provenance | {"encoder": "momentum"},
        weights_sha256=weights_digest(state),
    )
