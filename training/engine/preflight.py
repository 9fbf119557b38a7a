"""Everything that can be known to be wrong before a run starts, said before it starts."""

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from training.config.derived import stream_config
from training.config.file import check_run_folder
from training.config.pretrain import PretrainConfig
from training.data.order import num_used
from training.data.stream import WINDOWS_AHEAD
from training.engine.disk import check_disk
from training.evaluate.heldout import check_heldout
from training.evaluate.labelled import labelled_pair
from training.record.trackers import check_trackers


def preflight(config: PretrainConfig, num_ranks: int) -> DatasetInfo:
    """Checks that data, batch, queue, ranks, labels, run folder and disk fit together.

    Writes nothing.

    Args:
        config: the run.
        num_ranks: training processes that will take part.

    Returns:
        The shard set's description.

    Raises:
        InputError: names what does not fit and what to do.
    """
    info = load_dataset_info(config.shards)
    check_shards(config.shards, info)
    ShardSetReader(config.shards, info, config.cache).check_cache(
        WINDOWS_AHEAD * stream_config(config).window
    )
    check_batches(config, info, num_ranks)
    if config.knn.val_shards is not None:
        train_shards = config.knn.train_shards or config.shards
        labelled_pair(train_shards, config.knn.val_shards, config.cache)
    if config.heldout.shards is not None:
        check_heldout(config.shards, config.heldout)
    check_trackers(config.track)
    check_run_folder(config.out, config, info.plan_digest)
    check_disk(config)
    return info


def check_batches(config: PretrainConfig, info: DatasetInfo, num_ranks: int) -> None:
    """Raises ``InputError`` unless the data makes a global batch that the ranks can share."""
    check_split(config, num_ranks)
    used = num_used(info, config.data_fraction)
    if used < config.batch_size:
        share = "" if config.data_fraction == 1 else f" {config.data_fraction:g} of {config.shards}"
        raise InputError(
            f"{share or config.shards} holds {used} images, fewer than one global batch of "
            f"{config.batch_size}: lower --batch-size"
        )


def total_steps(config: PretrainConfig, info: DatasetInfo) -> int:
    """Global steps of a whole run."""
    return config.epochs * steps_per_epoch(config, info)


def steps_per_epoch(config: PretrainConfig, info: DatasetInfo) -> int:
    """Global steps of an epoch: all whole batches of the data that is used."""
    return num_used(info, config.data_fraction) // config.batch_size


def check_split(config: PretrainConfig, num_ranks: int) -> None:
    """Raises ``InputError`` unless the global batch can be split over that many ranks."""
    if config.batch_size % num_ranks:
        raise InputError(
            f"the global batch {config.batch_size} cannot be split over {num_ranks} ranks: "
            "choose a multiple"
        )
    config.method.check_batch(config.batch_size, num_ranks)


def can_split(config: PretrainConfig, num_ranks: int) -> bool:
    """Whether the global batch can be split over that many ranks."""
    try:
        check_split(config, num_ranks)
    except InputError:
        return False
    return True
