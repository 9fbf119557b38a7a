"""The run that another one starts from (`start_from`): its newest checkpoint, and what must fit."""

from dataclasses import replace

import torch
from torch import Tensor

from pipeline.core.architectures import NoInitialWeights
from pipeline.core.errors import InputError, check, refusing
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.storage import Location, fetched
from training.config.file import CONFIG_FILE, differences, read_config_file
from training.config.pretrain import PretrainConfig
from training.core.checkpoint import CheckpointStore, load_state, newest_checkpoint
from training.encoders.encoder import build_backbone
from training.methods.interface import Method
from training.methods.registry import find_method


def build_method(config: PretrainConfig) -> Method:
    """The run's method with its first weights, which come from torch's global generator."""
    channels = load_dataset_info(config.shards).pixels.channels
    kind, backbone = find_method(config.method.name), build_backbone(config.encoder, channels)
    return kind(config.method, backbone, batch_size=config.batch_size, seed=config.seed)


def outlined_method(config: PretrainConfig) -> Method:
    """The run's method without weights, and without their memory if possible."""
    config = replace(config, encoder=replace(config.encoder, init=None, compile=False))
    try:
        with torch.device("meta"), NoInitialWeights():
            return build_method(config)
    except NotImplementedError:  # a RegNet computes its widths with tensors
        with torch.random.fork_rng(devices=[]), NoInitialWeights():
            return build_method(config)


def checkpoints(config: PretrainConfig) -> CheckpointStore:
    """The checkpoints in a run's folder."""
    return CheckpointStore(config.out / "checkpoints", keep=config.checkpoint.keep)


def first_run(run: Location) -> PretrainConfig:
    """The settings of a run that another one starts from; InputError where they cannot be read."""
    folder = fetched(run, CONFIG_FILE)
    return read_config_file(folder / CONFIG_FILE, shards=folder, out=folder)


def first_state(run: Location, device: torch.device) -> dict[str, Tensor]:
    """The method's state in a run's newest checkpoint; InputError where there is none."""
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise InputError(
            f"start_from {run} holds no checkpoint: name the folder of a run of jobs/pretrain.py"
        )
    with refusing(f"checkpoint {checkpoint}", "name another run"):
        return dict(load_state(checkpoint, device)["method"])


def check_start(config: PretrainConfig) -> None:
    """Check the run that this one starts from, unless this one has a checkpoint already.

    Raises:
        InputError: it has no checkpoint, or another method or other networks.
    """
    run, kind = config.start_from, config.anchor.kind
    if run is None:
        check(
            kind == "none",
            f"anchor.kind {kind} holds weights near those of an earlier run: name it with "
            "--start-from",
        )
    if run is None or checkpoints(config).steps():
        return
    check(
        str(run) not in (str(config.out), config.bucket),
        f"start_from {run} is the run's own --out: name another run",
    )
    state, before = first_state(run, torch.device("cpu")), first_run(run)
    own = {name: value.shape for name, value in outlined_method(config).state_dict().items()}
    fits = own == {name: value.shape for name, value in state.items()}
    parts = [
        {part: one.to_json()[part] for part in ("method", "encoder")} for one in (before, config)
    ]
    check(
        fits and before.method.name == config.method.name,
        f"start_from {run} has another method or other networks than this run "
        f"({'; '.join(differences(*parts))}): give the same ones",
    )
    if kind == "mas":
        load_dataset_info(before.shards)  # whose images the importance is of
