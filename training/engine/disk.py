"""Whether a run's checkpoints will fit on the disk, known before it starts."""

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.core.errors import InputError
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore
from training.encoders.encoder import build_backbone
from training.methods.registry import find_method

STATES_PER_WEIGHT = {"sgd": 1, "lars": 1, "adamw": 2}
"""Numbers that an optimiser keeps for each one it trains."""


@dataclass(frozen=True)
class CheckpointSize:
    """Bytes of one checkpoint.

    Attributes:
        state: weights, statistics and queue of the method, and the optimiser's.
        backbone: the exported backbone.
    """

    state: int
    backbone: int


def checkpoint_size(config: PretrainConfig) -> CheckpointSize:
    """What a checkpoint of the run takes; builds the networks without their memory."""
    encoder = dataclasses.replace(config.encoder, init=None, compile=False)
    with torch.device("meta"):
        method = find_method(config.method.name)(
            config.method,
            build_backbone(encoder),
            batch_size=config.batch_size,
            seed=config.seed,
        )
    optimiser = STATES_PER_WEIGHT[config.optim.name] * _bytes(*method.trained.parameters())
    return CheckpointSize(
        state=_bytes(*_state(method)) + optimiser, backbone=_bytes(*_state(method.backbone))
    )


def check_disk(config: PretrainConfig, *, more_runs: int = 0) -> None:
    """Checks that the checkpoints that are kept, and the one being written, will fit.

    Args:
        config: the run.
        more_runs: of the same size that are to leave theirs on the same disk.

    Raises:
        InputError: with the bytes that are needed and those that are free.
    """
    size, keep = checkpoint_size(config), config.checkpoint.keep
    there = len(CheckpointStore(config.out / "checkpoints", keep=keep).steps())
    checkpoints = keep + 1 - min(there, keep)
    # The newest backbone lies beside the checkpoints too, and once more while it is replaced.
    needed = checkpoints * (size.state + size.backbone) + 2 * size.backbone
    needed += more_runs * (keep * (size.state + size.backbone) + size.backbone)
    others = f" and those of {more_runs} more runs" if more_runs else ""
    free = shutil.disk_usage(_existing(config.out)).free
    if free < needed:
        raise InputError(
            f"the disk of {config.out} has {free / 1e9:.2f} GB free, the run's checkpoints{others} "
            f"need {needed / 1e9:.2f} GB ({checkpoints} more of "
            f"{(size.state + size.backbone) / 1e9:.2f} GB, counting the one that is being "
            "written): free some space, choose another --out, or lower --checkpoint.keep"
        )


def _state(module: nn.Module) -> list[Tensor]:
    return list(module.state_dict().values())


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
