"""The query encoder as an exported backbone: its library's weights with their preprocessing."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backbone.folder import write_backbone
from pipeline.backbone.info import BackboneInfo
from pipeline.images.preprocessing import HighPass, Preprocessing, short_side
from training.encoders.encoder import Backbone, build_backbone, plain_state_dict
from training.encoders.settings import EncoderConfig
from training.encoders.stem import has_small_stem


def export_backbone(
    folder: Path | str,
    backbone: Backbone,
    encoder_config: EncoderConfig,
    *,
    view_size: int,
    high_pass: tuple[int, float] | None,
    provenance: dict[str, Any],
) -> BackboneInfo:
    """Write the backbone so that `pipeline.backbone.folder.load_backbone` and its library load it.

    Args:
        folder: of the export; replaced as a whole if it holds an earlier one.
        backbone: the query encoder, unwrapped, on any device; left as it is.
        encoder_config: what it was built from.
        view_size: side of the views it was trained on.
        high_pass: (kernel, sigma) at that size, where the views were filtered.
        provenance: run, epoch, data, versions; JSON values.

    Returns:
        What was written, with the digest of the weights.

    Raises:
        InputError: the folder holds something else.
    """
    filtered = None if high_pass is None else HighPass(kernel=high_pass[0], sigma=high_pass[1])
    info = BackboneInfo(
        architecture=encoder_config.architecture,
        feature_dim=backbone.feature_dim,
        max_pool=encoder_config.max_pool,
        preprocessing=Preprocessing(
            view_size=view_size, resize=short_side(view_size), high_pass=filtered
        ),
        provenance=provenance,
    )
    return write_backbone(folder, plain_state_dict(backbone), info)


def untrained_like(network: nn.Module, info: BackboneInfo, *, seed: int) -> nn.Module:
    """A network of the same architecture with random weights, for a baseline.

    A small stem is known by its kernel, which is zero but for the centre 3 x 3: the untrained one
    has such a stem too.

    Args:
        network: the trained one, from `load_backbone`.
        info: what its JSON says.
        seed: of the weights; torch's global generator is left as it was.

    Returns:
        [B, 3, S, S] -> [B, feature_dim], in evaluation mode, on the CPU.
    """
    config = EncoderConfig(
        architecture=info.architecture,
        stem="small" if has_small_stem(network) else "standard",
        max_pool=info.max_pool,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_backbone(config).eval()
