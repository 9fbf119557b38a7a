"""Check a sweep's trials before the first one starts."""

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from training.engine.preflight import check_batches, check_disk, preflight
from training.sweep.config import Sweep
from training.sweep.space import shown

READ_FROM_DISK = ("shards", "knn.val_shards", "knn.train_shards", "heldout.shards")
"""Where one of these fields is swept, every trial's data are checked, else only the first's."""


def check_trials(sweep: Sweep, *, num_ranks: int | None = None) -> DatasetInfo:
    """Checks data, batch, ranks, labels and disk for every trial that is known. Writes nothing.

    Args:
        sweep: the settings.
        num_ranks: workers of each trial; None means the configured number, 1 for ``auto``.

    Returns:
        The description of the base configuration's shards.

    Raises:
        InputError: names the trial and what does not fit.
    """
    workers = sweep.base.num_workers
    num_ranks = num_ranks or (1 if workers == "auto" else workers)
    points = sweep.points() or [{}]  # Optuna's are not known: the base stands for them
    configs = [sweep.trial_config(number, point) for number, point in enumerate(points)]
    info = load_dataset_info(sweep.base.shards)
    all_differ = any(name in READ_FROM_DISK for name in sweep.space)
    for number, config in enumerate(configs):
        try:
            if number == 0 or all_differ:
                preflight(config, num_ranks)
            else:
                check_batches(config, info, num_ranks)
        except InputError as error:
            # What is wrong with the first trial is mostly wrong with all of them.
            which = f"trial {number} ({shown(points[number])}): " if number else ""
            raise InputError(f"{which}{error}") from error
    new = sum(not config.out.exists() for config in configs)
    check_disk(configs[0], more_runs=max(0, new - 1))
    return info


def num_val_images(sweep: Sweep) -> int | None:
    """Images that every trial's kNN accuracy is measured on; None where there is no such number."""
    val_shards = sweep.base.knn.val_shards
    if val_shards is None or "knn.val_shards" in sweep.space:
        return None
    return load_dataset_info(val_shards).num_images
