"""The query encoder as an exported backbone: its library's weights with their preprocessing."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backbone.folder import BackboneInfo, write_backbone
from pipeline.images.gaussian import scaled_kernel
from pipeline.images.preprocessing import HighPass, Preprocessing, short_side
from training.config.pretrain import PretrainConfig
from training.encoders.encoder import Backbone, EncoderConfig, build_backbone, plain_state_dict
from training.encoders.stem import has_small_stem
from training.views.fills import HIGH_PASS_AT_224, fill_named


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


def export_run(
    folder: Path,
    backbone: Backbone,
    config: PretrainConfig,
    *,
    data_digest: str,
    step: int,
    epochs: float,
) -> BackboneInfo:
    """Write a run's backbone as it stands, with the run's preprocessing and where it comes from.

    Args:
        folder: of the export.
        backbone: the query encoder.
        config: of the run.
        data_digest: of the shards it learned from.
        step: global steps done.
        epochs: epochs done.
    """
    size = config.views.size
    return export_backbone(
        folder,
        backbone,
        config.encoder,
        view_size=size,
        high_pass=scaled_kernel(*HIGH_PASS_AT_224, size)
        if fill_named(config.fill).high_pass
        else None,
        provenance={
            "data_digest": data_digest,
            "step": step,
            "epochs": epochs,
            "config": config.to_json(),
        },
    )


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
