"""What is evaluated: an encoder by name, frozen, with the digest of its weights."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.backbone.folder import weights_digest
from pipeline.backbone.info import BackboneInfo
from pipeline.core.architectures import plain_network
from pipeline.core.errors import check
from pipeline.images.preprocessing import Preprocess, Preprocessing
from training.encoders.encoder import load_initial
from training.encoders.export import EncoderName, load_encoder, untrained_like
from training.evaluate.features import FeatureExtractor

UNTRAINED = "untrained"
"""The name of random weights: the network and the preprocessing of the first other checkpoint."""
NUM_UNTRAINED = 3
"""Random networks that an untrained one stands for: single ones differ by several points."""
SUPERVISED = "torchvision"
"""First part of the names of published weights (`torchvision`, `torchvision:NAME`)."""
STATE_DICT = ".pth"
"""Suffix of local files of weights named as torchvision names them."""


@dataclass(frozen=True, kw_only=True)
class NamedEncoder(FeatureExtractor):
    """A frozen encoder on a device: the network is plain and in evaluation mode.

    Attributes:
        name: as it was given.
        kind: query or momentum; of random weights: untrained; of others: supervised.
        info: architecture, preprocessing, provenance.
        digest: of the weights.
        twins: of an untrained one: the same with the random weights of the next seeds.
    """

    name: str
    kind: str
    info: BackboneInfo
    digest: str
    twins: tuple["NamedEncoder", ...] = ()


def load_encoders(
    names: Sequence[str],
    *,
    encoder: EncoderName,
    seed: int,
    device: torch.device,
    **settings: Any,  # noqa: ANN401
) -> list[NamedEncoder]:
    """Load what is compared.

    Names are paths of runs, checkpoints and exports, or weights for the first other one's network:
    `UNTRAINED` (from the seed), `torchvision`, `torchvision:NAME` or a `.pth` file. The settings
    are those of `FeatureExtractor`.

    Raises:
        InputError: none, one that cannot be loaded, one twice, or nothing but weights.
    """
    double = next((name for name in names if list(names).count(name) > 1), None)
    check(double is None, f"{double} is named twice: a table has one row for each checkpoint")
    model = next((name for name in names if is_path(name) and not name.endswith(STATE_DICT)), "")
    check(
        model != "",
        f"--checkpoint {names[0] if names else UNTRAINED} takes the network from another "
        "checkpoint, a run or an exported backbone: name one as well",
    )
    given = {"num_threads": min(8, os.cpu_count() or 1), "device": device} | settings
    return [_load(name, model, encoder, seed, given) for name in names]


def is_path(name: str) -> bool:
    """Whether a checkpoint's name is a path."""
    return name != UNTRAINED and name.partition(":")[0] != SUPERVISED


def _load(
    name: str, model: str, wanted: EncoderName, seed: int, settings: dict[str, Any]
) -> NamedEncoder:
    def encoder(kind: str, network: nn.Module, info: BackboneInfo, digest: str) -> NamedEncoder:
        device, seen = settings["device"], info.preprocessing
        return NamedEncoder(
            name=name,
            kind=kind,
            info=info,
            digest=digest,
            network=network.to(device),
            prepare=Preprocess(seen).to(device).prepare,
            view_size=seen.view_size,
            resize=seen.resize,
            **settings,
        )

    if name == UNTRAINED:
        trained, info = load_encoder(Path(model))
        first, *twins = (
            encoder(UNTRAINED, untrained_like(trained, info, seed=s), info, f"random:{s}")
            for s in range(seed, seed + NUM_UNTRAINED)
        )
        return replace(first, twins=tuple(twins))
    if is_path(name) and not name.endswith(STATE_DICT):
        network, info = load_encoder(Path(name), wanted)
        return encoder(wanted, network, info, info.weights_sha256)
    # Published weights in the model's network, normalised as torchvision does.
    like = load_encoder(Path(model))[1]
    network, _ = plain_network(like.architecture, max_pool=like.max_pool)
    load_initial(network, name, like.architecture, max_pool=like.max_pool)
    seen = like.preprocessing
    info = replace(
        like,
        preprocessing=Preprocessing(view_size=seen.view_size, resize=seen.resize),
        provenance={"init": name},
        weights_sha256=weights_digest(network.state_dict()),
    )
    return encoder("supervised", network.eval(), info, info.weights_sha256)
