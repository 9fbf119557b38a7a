"""Checks before a run starts: data, batch, ranks, labels, trackers, run folder and disk."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import nn

from pipeline.core.architectures import NoInitialWeights
from pipeline.core.errors import InputError, check
from pipeline.images.pixel_format import IMAGENET
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.shared_images import counted, hashed_shards, shared_images
from pipeline.storage.storage import Location
from training.config.derived import declared_views, replayed_sets, stream_config
from training.config.file import check_run_folder
from training.config.pretrain import PretrainConfig
from training.data.order import num_used
from training.data.stream import WINDOWS_AHEAD
from training.encoders.encoder import build_backbone
from training.engine.extend import check_extend
from training.engine.start import check_start, checkpoints, outlined_method
from training.evaluate.checks import check_heldout
from training.evaluate.labelled import labelled_pair, open_labelled
from training.methods.contrastive import ContrastiveMethod
from training.record.trackers import check_trackers

STATES_PER_WEIGHT = {"sgd": 1, "lars": 1, "adamw": 2}
"""Numbers that an optimiser keeps for each one it trains."""


def preflight(config: PretrainConfig, num_ranks: int) -> DatasetInfo:
    """Checks that everything fits together, writes nothing, and returns the shards' description.

    Raises:
        InputError: names what does not fit and what to do.
    """
    info = load_dataset_info(config.shards)
    for root, about in ((config.shards, info), *replayed_sets(config)):
        check_shards(root, about)
        reader = ShardSetReader(root, about, config.cache)
        reader.check_cache(WINDOWS_AHEAD * stream_config(config).window)
    check_batches(config, info, num_ranks)
    check_pixels(config, info)
    check_apart([config.shards, *(root for root, _ in replayed_sets(config))])
    if config.knn.val_shards is not None:
        train = config.knn.train_shards or config.shards
        labelled_pair(train, config.knn.val_shards, config.cache)
    if config.heldout.shards is not None:
        for root in (config.shards, *config.replay.shards):
            check_heldout(root, config.heldout)
    check_trackers(config.track, is_new=not checkpoints(config).steps())
    check_run_folder(config.out, config, info.plan_digest)
    check_first_weights(config)
    check_released(config)
    if config.extend is None:
        check_start(config)
    check_extend(config, info.plan_digest, total_steps(config, info))
    check_disk(config)
    return info


def steps_per_epoch(config: PretrainConfig, info: DatasetInfo) -> int:
    """Global steps of an epoch: by default all whole batches of the data that is used."""
    if isinstance(config.epoch_steps, int):
        return config.epoch_steps
    num = num_used(info, config.data_fraction, config.selection)
    num = info.num_images if config.epoch_steps == "all" else num
    return num // (config.batch_size - config.num_replayed)


def total_steps(config: PretrainConfig, info: DatasetInfo) -> int:
    """Global steps of a whole run."""
    return config.epochs * steps_per_epoch(config, info)


def check_batches(config: PretrainConfig, info: DatasetInfo, num_ranks: int) -> None:
    """Raises ``InputError`` unless data, views and method make batches that the ranks can share."""
    check_split(config, num_ranks)
    declared_views(config)
    used = num_used(info, config.data_fraction, config.selection)
    num = config.batch_size - config.num_replayed
    if used < num:
        share = "" if config.data_fraction == 1 else f"{config.data_fraction:g} of "
        share = share if config.selection is None else f"{config.selection} of "
        new = f" ({num} of them new)" if config.num_replayed else ""
        raise InputError(
            f"{share}{config.shards} holds {used} images, fewer than one global batch of "
            f"{config.batch_size}{new}: lower --batch-size"
        )


def check_pixels(config: PretrainConfig, info: DatasetInfo) -> None:
    """Raises ``InputError`` unless all sets have pixels of one format, which the settings take."""
    others = config.knn.train_shards, config.knn.val_shards, config.heldout.shards
    for root in (*others, *config.replay.shards):
        if root is not None:
            images = open_labelled(root, config.cache, labels=False)
            info.pixels.check_same(images.pixels, str(root))
    if config.fill == "high_pass" or config.masks.behaviour == "released":
        info.pixels.check_rgb("fill high_pass, or masks.behaviour released,")
    check(
        config.masks.strategy != "learned" or info.pixels.normalisation == IMAGENET,
        "masks.strategy learned is for sets that have 8-bit images of three channels",
    )


def check_apart(roots: Sequence[Location]) -> None:
    """Raises ``InputError`` where sets of a stream share images, and names them."""
    seen: list[tuple[Location, DatasetInfo]] = []
    for root in roots:
        info = load_dataset_info(root)
        for other in seen:
            shared = shared_images(hashed_shards(*other), hashed_shards(root, info))
            check(
                not shared,
                f"{root} shares {counted(shared)} with {other[0]}: sets of a stream have different "
                "images, take the shared ones out of one of them",
            )
        seen.append((root, info))


def check_split(config: PretrainConfig, num_ranks: int) -> None:
    """Raises ``InputError`` unless the global batch can be split over that many ranks."""
    if config.batch_size % num_ranks:
        raise InputError(
            f"the global batch {config.batch_size} cannot be split over {num_ranks} ranks: "
            "choose a multiple"
        )
    config.method.check_batch(config.batch_size, num_ranks)
    share, parts = config.batch_size // num_ranks, config.accumulate
    group = config.method.batch_norm_group or 2
    check(
        parts == 1 or share % (parts * group) == 0,
        f"accumulate {parts} leaves {share / parts:g} images of a rank's {share} to a part: wanted "
        f"a multiple of method.batch_norm_group {group}, so that its statistics are the same",
    )


def can_split(config: PretrainConfig, num_ranks: int) -> bool:
    """Whether the global batch can be split over that many ranks."""
    with suppress(InputError):
        check_split(config, num_ranks)
        return True
    return False


def check_first_weights(config: PretrainConfig) -> None:
    """Loads the weights that a run starts from, for their errors, unless it has a checkpoint.

    Raises:
        InputError: they are not there, or do not fit.
    """
    if config.encoder.init is not None and not checkpoints(config).steps():
        with NoInitialWeights():
            channels = load_dataset_info(config.shards).pixels.channels
            build_backbone(replace(config.encoder, compile=False), channels)


def check_released(config: PretrainConfig) -> None:
    """Raises ``InputError`` where the released behaviour cannot encode a hard negative alone."""
    hides = any(view.name.startswith("negative") for view in declared_views(config))
    if config.masks.behaviour != "released" or not hides:
        return
    method = outlined_method(config)
    assert isinstance(method, ContrastiveMethod)
    weights, side = next(method.parameters()), config.views.size
    channels = load_dataset_info(config.shards).pixels.channels
    try:
        with torch.no_grad():
            method.negative_encoder(torch.zeros(1, channels, side, side, device=weights.device))
    except ValueError as error:
        raise InputError(
            f"masks.behaviour released encodes a hard negative alone, and at {side} px one of its "
            f"positions has no batch statistics ({error}): use larger views (--views.size) or "
            "--masks.behaviour paper"
        ) from error


class CheckpointSize(NamedTuple):
    """Bytes of one checkpoint: the states of method and optimiser, and the exported backbone."""

    state: int
    backbone: int


def checkpoint_size(config: PretrainConfig) -> CheckpointSize:
    """The size of a checkpoint of the run; builds the networks without their memory if possible."""
    method = outlined_method(config)
    weights = sum(p.numel() * p.element_size() for p in method.trained.parameters())
    optimiser = STATES_PER_WEIGHT[config.optim.name] * weights
    return CheckpointSize(_state_bytes(method) + optimiser, _state_bytes(method.backbone))


def _state_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def check_disk(config: PretrainConfig, *, more_runs: int = 0) -> None:
    """Checks that the checkpoints that are kept, and the one being written, fit the disk.

    ``more_runs`` runs of the same size keep theirs on the same disk.

    Raises:
        InputError: with the bytes that are needed and those that are free.
    """
    size, keep = checkpoint_size(config), config.checkpoint.keep
    each = size.state + size.backbone
    there = len(checkpoints(config).steps())
    checkpoints_left = keep + 1 - min(there, keep) if config.bucket is None else 1
    # The newest backbone stands beside the checkpoints too, and twice while it is replaced.
    # An anchor has the weights of the start and their importance.
    single = 2 if config.anchor.kind == "none" else 4
    needed = (
        checkpoints_left * each + single * size.backbone + more_runs * (keep * each + size.backbone)
    )
    others = f" and those of {more_runs} more runs" if more_runs else ""
    existing = next(folder for folder in (config.out, *config.out.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"the disk of {config.out} has {free / 1e9:.2f} GB free, the run's checkpoints{others} "
            f"need {needed / 1e9:.2f} GB ({checkpoints_left} more of {each / 1e9:.2f} GB, counting "
            "the one that is being written): free some space, choose another --out, or lower "
            "--checkpoint.keep"
        )
