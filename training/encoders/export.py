"""The encoders of a run as backbones with their preprocessing: exported, loaded, untrained.

A run exports its query encoder. Its checkpoints also hold the momentum encoder (the keys' of MoCo,
the target of BYOL).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.backbone.channels import narrow
from pipeline.backbone.folder import (
    BACKBONE_FOLDER,
    load_backbone,
    load_info,
    weights_digest,
    write_backbone,
)
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import NoInitialWeights, plain_network
from pipeline.core.errors import InputError, refusing
from pipeline.core.plain import fitted, parse
from pipeline.images.pixel_format import PLAIN, PixelFormat
from pipeline.images.preprocessing import HighPass, Preprocessing, short_side
from pipeline.storage.storage import Location, is_url
from training.core.checkpoint import CONFIG_FILE, STATE_FILE, load_state, newest_checkpoint
from training.encoders.encoder import (
    Backbone,
    build_backbone,
    plain_state_dict,
    projection_head,
)
from training.encoders.settings import EncoderConfig
from training.encoders.stem import has_small_stem

EncoderName = Literal["query", "momentum"]
MOMENTUM_PREFIXES = ("key_encoder.backbone.", "target.backbone.")
"""Prefixes of a momentum encoder's backbone in the methods' states."""


def export_backbone(
    folder: Path | str,
    backbone: Backbone,
    encoder_config: EncoderConfig,
    *,
    view_size: int,
    high_pass: tuple[int, float] | None,
    provenance: dict[str, Any],
    pixels: PixelFormat = PLAIN,
) -> BackboneInfo:
    """Write the backbone so that `pipeline.backbone.folder.load_backbone` and its library load it.

    The folder is replaced as a whole if it holds an earlier export. The backbone is the query
    encoder, unwrapped, on any device; it is not changed. It was trained on views of `view_size`,
    filtered with `high_pass` (kernel, sigma) if any, of images of the format `pixels`. The
    provenance (run, epoch, data, versions) holds JSON values. Returns what was written, with the
    digest of the weights; raises as `write_backbone`.
    """
    filtered = None if high_pass is None else HighPass(kernel=high_pass[0], sigma=high_pass[1])
    info = BackboneInfo(
        architecture=encoder_config.architecture,
        feature_dim=backbone.feature_dim,
        max_pool=encoder_config.max_pool,
        preprocessing=Preprocessing(
            view_size=view_size,
            resize=short_side(view_size),
            mean=pixels.mean,
            std=pixels.std,
            high_pass=filtered,
        ),
        pixels=pixels,
        provenance=provenance,
    )
    return write_backbone(folder, plain_state_dict(backbone), info)


def load_encoder(path: Location, name: EncoderName = "query") -> tuple[nn.Module, BackboneInfo]:
    """Load an encoder of a run as `load_backbone` does; its provenance says which one it is.

    `path` is a run (its newest checkpoint) or a checkpoint; for the query encoder also an export.

    Raises:
        InputError: as `load_backbone`; no checkpoint there, or a method without momentum encoder.
    """
    if name == "query":
        return load_backbone(path)
    checkpoint = find_checkpoint(path)
    with refusing(f"checkpoint {checkpoint}", "take another one"):
        return _momentum_encoder(checkpoint)


def _momentum_encoder(checkpoint: Path) -> tuple[nn.Module, BackboneInfo]:
    method = load_state(checkpoint, torch.device("cpu"))["method"]
    recorded = parse((checkpoint / CONFIG_FILE).read_bytes())
    prefix = next((p for p in MOMENTUM_PREFIXES if any(k.startswith(p) for k in method)), None)
    if prefix is None:
        raise InputError(
            f"{checkpoint} holds no momentum encoder ({recorded['method']['name']} has none): "
            "take the query encoder"
        )
    config = fitted(EncoderConfig, recorded["encoder"] | {"init": None, "compile": False})
    info = load_info(checkpoint / BACKBONE_FOLDER)
    with NoInitialWeights():
        backbone = build_backbone(config, info.pixels.channels)
    backbone.load_state_dict(
        {key.removeprefix(prefix): v for key, v in method.items() if key.startswith(prefix)}
    )
    state = plain_state_dict(backbone)
    with NoInitialWeights():
        network, _ = plain_network(
            info.architecture, max_pool=info.max_pool, channels=info.pixels.channels
        )
    network.load_state_dict(state)
    provenance = info.provenance | {"encoder": "momentum"}
    digest = weights_digest(state)
    return network.eval(), replace(info, provenance=provenance, weights_sha256=digest)


def load_head(path: Location, name: str) -> nn.Sequential | None:
    """The plain projection head of an encoder, [B, F] -> [B, D], in evaluation mode on the CPU.

    Path and name are those of `load_encoder`; None for an export, which has no head.
    """
    try:
        checkpoint = find_checkpoint(path)
    except InputError:
        return None
    with refusing(f"checkpoint {checkpoint}", "take another one"):
        return _head(load_state(checkpoint, torch.device("cpu"))["method"], name)


def _head(method: Mapping[str, Tensor], name: str) -> nn.Sequential:
    of_momentum = tuple(prefix.replace("backbone", "head") for prefix in MOMENTUM_PREFIXES)
    state = {
        key.partition(".head.")[2]: value
        for key, value in method.items()
        if ".head." in key and ".backbone." not in key  # a network may have a head of its own
        if key.startswith(of_momentum) == (name == "momentum")
    }
    layers = [value for value in state.values() if value.ndim == 2]
    (width, features), batch_norm = layers[0].shape, "1.running_mean" in state
    head = projection_head(
        features, width, len(layers[-1]), num_layers=len(layers), batch_norm=batch_norm
    )
    head.load_state_dict(state)
    return head.eval()


def find_checkpoint(path: Location) -> Path:
    """The checkpoint that a path names, itself or a run's newest; `InputError` if neither."""
    if not is_url(path) and Path(path, STATE_FILE).is_file():
        return Path(path)
    latest = newest_checkpoint(path)
    if latest is None:
        raise InputError(
            f"{path} is no checkpoint, and no run with one: the momentum encoder is kept in "
            "checkpoints only (an exported folder holds the query encoder)"
        )
    return latest


def untrained_like(network: nn.Module, info: BackboneInfo, *, seed: int) -> nn.Module:
    """A network of the same architecture and stem with random weights, for a baseline.

    `network` and `info` are the trained one's. Returns it in evaluation mode, on the CPU; torch's
    global generator is left as it was.
    """
    config = EncoderConfig(
        architecture=info.architecture,
        stem="small" if has_small_stem(network) else "standard",
        max_pool=info.max_pool,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(config, info.pixels.channels)
    narrow(backbone.network, info.architecture, info.channels)
    return backbone.eval()
