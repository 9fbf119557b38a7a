"""Everything that can be known to be wrong before a run starts, said before it starts."""

from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest import DatasetInfo, check_shards, load_dataset_info
from training.config import PretrainConfig, check_run_folder
from training.methods.registry import METHODS


def preflight(config: PretrainConfig, num_ranks: int) -> DatasetInfo:
    """Checks that data, batch, queue, ranks, labels and run folder fit together.

    Writes nothing.

    Args:
        config: the run.
        num_ranks: training processes that will take part.

    Returns:
        The shard set's description.

    Raises:
        InputError: names what does not fit and what to do.
    """
    if config.method not in METHODS:
        raise InputError(f"unknown method {config.method!r}: choose one of {', '.join(METHODS)}")
    info = load_dataset_info(config.shards)
    check_shards(config.shards, info)
    if config.batch_size % num_ranks:
        raise InputError(
            f"the global batch {config.batch_size} cannot be split over {num_ranks} ranks: "
            "choose a multiple"
        )
    config.moco.check_batch(config.batch_size, num_ranks)
    if info.num_images < config.batch_size:
        raise InputError(
            f"{config.shards} holds {info.num_images} images, fewer than one global batch of "
            f"{config.batch_size}: lower --batch-size"
        )
    if config.knn.val_shards is not None:
        _check_labels(config.knn.val_shards, config.knn.train_shards or config.shards)
    check_run_folder(config.out, config, info.plan_digest)
    return info


def _check_labels(val: Path, train: Path) -> None:
    infos = {}
    for root in (train, val):
        infos[root] = load_dataset_info(root)
        check_shards(root, infos[root])
        if not infos[root].has_labels:
            raise InputError(
                f"the kNN check needs labels and {root} has none: precompute it from class "
                "folders, or leave knn.val_shards out"
            )
    if infos[val].class_names != infos[train].class_names:
        raise InputError(
            f"{val} and {train} have different classes: "
            f"{', '.join(sorted(set(infos[val].class_names) ^ set(infos[train].class_names)))}"
        )
