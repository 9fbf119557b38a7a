"""What is evaluated: an encoder by name, frozen, with preprocessing and the digest of its weights.

Shapes: B batch, S side of the view, D features.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.backbone import BackboneInfo
from pipeline.errors import InputError
from pipeline.preparation import Preprocess
from training.encoders.export import untrained_like
from training.encoders.kept_encoder import EncoderName, load_encoder
from training.evaluate.extract import ExtractConfig, Prepare

UNTRAINED = "untrained"
"""The name of random weights: the network and the preprocessing of the first other checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder on a device.

    Attributes:
        name: as it was given.
        encoder: query or momentum; of random weights: untrained.
        network: plain, [B, 3, S, S] -> [B, D], in evaluation mode.
        info: architecture, preprocessing, provenance.
        digest: of the weights.
        prepare: views in [0, 1] to what the network wants.
    """

    name: str
    encoder: str
    network: nn.Module
    info: BackboneInfo
    digest: str
    prepare: Prepare

    def extract_config(self, *, batch_size: int, bf16: bool) -> ExtractConfig:
        """How images become its features."""
        wanted = self.info.preprocessing
        return ExtractConfig(
            view_size=wanted.view_size,
            resize=wanted.resize,
            batch_size=batch_size,
            num_threads=min(8, os.cpu_count() or 1),
            autocast_dtype=torch.bfloat16 if bf16 else None,
        )


def load_subjects(
    names: Sequence[str], *, encoder: EncoderName, seed: int, device: torch.device
) -> list[Subject]:
    """Load what is compared.

    Args:
        names: paths of runs, checkpoints and exports, or `UNTRAINED`.
        encoder: of each run.
        seed: of untrained weights.
        device: that they go to.

    Raises:
        InputError: none, one that cannot be loaded, one twice, or nothing but untrained ones.
    """
    double = next((name for name in names if list(names).count(name) > 1), None)
    if double is not None:
        raise InputError(f"{double} is named twice: a table has one row for each checkpoint")
    model = next((name for name in names if name != UNTRAINED), None)
    if model is None:
        raise InputError(
            f"--checkpoint {UNTRAINED} takes network and preprocessing from another checkpoint: "
            "name one as well"
        )
    return [_load(name, model, encoder, seed, device) for name in names]


def _load(name: str, model: str, encoder: EncoderName, seed: int, device: torch.device) -> Subject:
    which: str
    if name == UNTRAINED:
        network, info = load_encoder(Path(model))
        network, digest, which = untrained_like(network, info, seed=seed), f"random:{seed}", name
    else:
        network, info = load_encoder(Path(name), encoder)
        digest, which = info.weights_sha256, encoder
    preprocess = Preprocess(info.preprocessing).to(device)
    return Subject(
        name=name,
        encoder=which,
        network=network.to(device),
        info=info,
        digest=digest,
        prepare=preprocess.prepare,
    )
