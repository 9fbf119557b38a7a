"""What a frozen backbone is worth on labelled shards: weighted kNN and the fast linear probe.

Shapes: B batch, S side of the view, M images, D features.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.codecs import decode_stored
from pipeline.errors import DamagedSampleError, ImageError, InputError
from pipeline.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shards import ShardSetReader
from training.features import evaluation_view, extract_features
from training.knn import knn_accuracy
from training.linear import linear_probe

PROTOCOLS = ("knn", "linear")

Prepare = Callable[[torch.Tensor], torch.Tensor]
Features = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How images of shards become features.

    Attributes:
        view_size: S, side of the view.
        resize: length of the shorter side before the centre crop; none: 256/224 of the view.
        batch_size: B.
        num_threads: that decode.
        autocast_dtype: compute in this type; none: in the weights' own.
        skip_damaged: leave out images that are damaged, instead of raising.
    """

    view_size: int
    resize: int | None = None
    batch_size: int = 256
    num_threads: int = 1
    autocast_dtype: torch.dtype | None = None
    skip_damaged: bool = False

    def __post_init__(self) -> None:
        if min(self.view_size, self.batch_size, self.num_threads) < 1:
            raise InputError(
                f"view_size {self.view_size}, batch_size {self.batch_size}, num_threads "
                f"{self.num_threads}: wanted at least 1 each"
            )


def evaluate_shards(
    backbone: nn.Module,
    train_root: Path,
    val_root: Path,
    *,
    config: ExtractConfig,
    prepare: Prepare,
    device: torch.device,
    protocols: Sequence[str] = PROTOCOLS,
    k: int = 20,
    temperature: float = 0.07,
    seed: int = 0,
) -> dict[str, float]:
    """Score a frozen backbone on two labelled shard sets.

    Args:
        backbone: [B, 3, S, S] -> [B, D], on `device`; afterwards as it was before.
        train_root: shards whose labels are given.
        val_root: shards that are classified.
        config: how images become features.
        prepare: views in [0, 1] -> what the backbone wants.
        device: that computes.
        protocols: of `PROTOCOLS`.
        k: neighbours of kNN.
        temperature: of kNN.
        seed: of the probe's held-out part.

    Returns:
        Top-1 in percent as `knn` and `linear`, the chosen `linear_strength`, and the number of
        images as `num_train` and `num_val`.

    Raises:
        InputError: unlabelled, unequal, identical or damaged shard sets, unknown protocols.
    """
    unknown = [name for name in protocols if name not in PROTOCOLS]
    if unknown or not protocols:
        raise InputError(f"protocols {list(protocols)}: wanted some of {', '.join(PROTOCOLS)}")
    train, val = labelled_pair(train_root, val_root)
    features, labels = shard_features(backbone, train, config, prepare=prepare, device=device)
    features_val, labels_val = shard_features(backbone, val, config, prepare=prepare, device=device)
    return score_features(
        (features.to(device), labels),
        (features_val.to(device), labels_val),
        num_classes=len(train.info.class_names),
        protocols=protocols,
        k=k,
        temperature=temperature,
        seed=seed,
    )


def score_features(
    train: Features,
    val: Features,
    *,
    num_classes: int,
    protocols: Sequence[str] = PROTOCOLS,
    k: int = 20,
    temperature: float = 0.07,
    seed: int = 0,
) -> dict[str, float]:
    """Score features (float [M, D], labels int64 [M]) that are there already; as above."""
    figures: dict[str, float] = {"num_train": len(train[0]), "num_val": len(val[0])}
    if "knn" in protocols:
        figures["knn"] = knn_accuracy(
            *train, *val, k=k, temperature=temperature, num_classes=num_classes
        )
    if "linear" in protocols:
        result = linear_probe(*train, *val, num_classes=num_classes, seed=seed)
        figures |= {"linear": result.top1, "linear_strength": result.strength}
    return figures


def labelled_pair(train_root: Path, val_root: Path) -> tuple[ShardSetReader, ShardSetReader]:
    """Open two shard sets whose labels mean the same.

    Raises:
        InputError: a set is missing, damaged or without labels; other class names; one set twice.
    """
    infos = []
    for root in (train_root, val_root):
        info = load_dataset_info(root)
        if not info.has_labels:
            raise InputError(
                f"labels asked for where there are none: {root} was made without labels (run "
                "jobs/precompute.py on class folders, without --no-labels)"
            )
        check_shards(root, info)
        infos.append(info)
    train, val = infos
    if train.class_names != val.class_names:
        raise InputError(
            f"the classes of {train_root} and {val_root} differ ({first_difference(train, val)}): "
            "a label would mean two things"
        )
    if [shard.sha256 for shard in train.shards] == [shard.sha256 for shard in val.shards]:
        raise InputError(
            f"{train_root} and {val_root} hold the same images: every image would find itself"
        )
    return ShardSetReader(train_root, train), ShardSetReader(val_root, val)


def first_difference(train: DatasetInfo, val: DatasetInfo) -> str:
    """Which class name differs first, for a message."""
    if len(train.class_names) != len(val.class_names):
        return f"{len(train.class_names)} and {len(val.class_names)} classes"
    pairs = zip(train.class_names, val.class_names, strict=True)
    return next(f"{a!r} and {b!r}" for a, b in pairs if a != b)


def shard_features(
    backbone: nn.Module,
    reader: ShardSetReader,
    config: ExtractConfig,
    *,
    prepare: Prepare,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> Features:
    """Features of the images of a shard set, in their order.

    With several ranks each takes one stretch of the images; put together in the order of the
    ranks they are the whole. Arguments, results and errors as in `extract_features`.
    """
    first = reader.num_samples * rank // world_size
    last = reader.num_samples * (rank + 1) // world_size
    return extract_features(
        backbone,
        view_batches(reader, range(first, last), config),
        device=device,
        prepare=prepare,
        autocast_dtype=config.autocast_dtype,
    )


def view_batches(
    reader: ShardSetReader, sample_ids: range, config: ExtractConfig
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Decoded views uint8 [B, 3, S, S] and labels int64 [B], one batch ahead of use."""

    def load(sample_id: int) -> tuple[NDArray[np.uint8], int] | None:
        try:
            return _view(reader, sample_id, config)
        except DamagedSampleError:
            if config.skip_damaged:
                return None
            raise

    batches = [
        sample_ids[i : i + config.batch_size] for i in range(0, len(sample_ids), config.batch_size)
    ]
    with ThreadPoolExecutor(config.num_threads) as pool:
        ahead: list[Future[tuple[NDArray[np.uint8], int] | None]] = []
        for batch in [*batches, range(0)]:
            ready, ahead = ahead, [pool.submit(load, sample_id) for sample_id in batch]
            if ready:
                try:
                    loaded = [pair for future in ready if (pair := future.result()) is not None]
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
                if not loaded:
                    continue
                views, labels = zip(*loaded, strict=True)
                views_BHWC = torch.from_numpy(np.stack(views))
                yield views_BHWC.permute(0, 3, 1, 2), torch.tensor(labels, dtype=torch.int64)


def _view(
    reader: ShardSetReader, sample_id: int, config: ExtractConfig
) -> tuple[NDArray[np.uint8], int]:
    sample = reader.read(sample_id)
    try:
        image = decode_stored(sample.image)
    except ImageError as error:
        raise DamagedSampleError(f"shard {sample.shard}, sample {sample.key}: {error}") from error
    return evaluation_view(image, config.view_size, config.resize), sample.label
