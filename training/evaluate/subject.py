"""What is evaluated: an encoder by name, frozen, with preprocessing and the digest of its weights.

Shapes: B batch, S side of the view, D features.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from pipeline.backbone.folder import weights_digest
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.core.errors import InputError
from pipeline.images.preprocessing import Preprocess, Preprocessing
from training.encoders.encoder import load_initial
from training.encoders.export import EncoderName, load_encoder, untrained_like
from training.evaluate.extract import ExtractConfig, Prepare

UNTRAINED = "untrained"
"""The name of random weights: the network and the preprocessing of the first other checkpoint."""
NUM_UNTRAINED = 3
"""Random networks that an untrained one stands for: single ones differ by several points."""
SUPERVISED = "torchvision"
"""So begins the name of torchvision's published weights (`torchvision`, `torchvision:NAME`)."""
STATE_DICT = ".pth"
"""So ends the name of a local file of weights as torchvision names them."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder on a device.

    Attributes:
        name: as it was given.
        encoder: query or momentum; of random weights: untrained; of others: supervised.
        network: plain, [B, 3, S, S] -> [B, D], in evaluation mode.
        info: architecture, preprocessing, provenance.
        digest: of the weights.
        prepare: views in [0, 1] to what the network wants.
        twins: of an untrained one: the same with the random weights of the next seeds.
    """

    name: str
    encoder: str
    network: nn.Module
    info: BackboneInfo
    digest: str
    prepare: Prepare
    twins: tuple["Subject", ...] = ()

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
        names: paths of runs, checkpoints and exports; `UNTRAINED`, `torchvision`,
            `torchvision:NAME` or a `.pth` file: weights for the first other one's network.
        encoder: of each run.
        seed: of untrained weights.
        device: that they go to.

    Raises:
        InputError: none, one that cannot be loaded, one twice, or nothing but untrained ones.
    """
    double = next((name for name in names if list(names).count(name) > 1), None)
    if double is not None:
        raise InputError(f"{double} is named twice: a table has one row for each checkpoint")
    model = next((name for name in names if not is_baseline(name)), None)
    if model is None:
        raise InputError(
            f"--checkpoint {names[0] if names else UNTRAINED} takes the network from another "
            "checkpoint, a run or an exported backbone: name one as well"
        )
    return [_load(name, model, encoder, seed, device) for name in names]


def is_path(name: str) -> bool:
    """Whether a checkpoint's name is a path, and no word."""
    return name != UNTRAINED and name.partition(":")[0] != SUPERVISED


def is_baseline(name: str) -> bool:
    """Whether a checkpoint's name says weights alone, without a network to put them in."""
    return not is_path(name) or name.endswith(STATE_DICT)


def _load(name: str, model: str, encoder: EncoderName, seed: int, device: torch.device) -> Subject:
    which: str
    if name == UNTRAINED:
        trained, info = load_encoder(Path(model))
        first, *twins = (
            _subject(name, name, untrained_like(trained, info, seed=s), info, f"random:{s}", device)
            for s in range(seed, seed + NUM_UNTRAINED)
        )
        return replace(first, twins=tuple(twins))
    if is_baseline(name):
        network, info = _supervised(name, load_encoder(Path(model))[1])
        digest, which = info.weights_sha256, "supervised"
    else:
        network, info = load_encoder(Path(name), encoder)
        digest, which = info.weights_sha256, encoder
    return _subject(name, which, network, info, digest, device)


def _subject(
    name: str,
    encoder: str,
    network: nn.Module,
    info: BackboneInfo,
    digest: str,
    device: torch.device,
) -> Subject:
    preprocess = Preprocess(info.preprocessing).to(device)
    return Subject(
        name=name,
        encoder=encoder,
        network=network.to(device),
        info=info,
        digest=digest,
        prepare=preprocess.prepare,
    )


def _supervised(name: str, like: BackboneInfo) -> tuple[nn.Module, BackboneInfo]:
    """Published weights in the network of another export, normalised as torchvision does."""
    wanted = like.preprocessing
    network, _ = plain_network(like.architecture, max_pool=like.max_pool)
    load_initial(network, name, like.architecture, max_pool=like.max_pool)
    info = replace(
        like,
        preprocessing=Preprocessing(view_size=wanted.view_size, resize=wanted.resize),
        provenance={"init": name},
        weights_sha256=weights_digest(network.state_dict()),
    )
    return network.eval(), info
