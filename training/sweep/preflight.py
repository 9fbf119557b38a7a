"""Everything that can be known to be wrong with a sweep's trials before the first one starts."""

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from training.engine.disk import check_disk
from training.engine.preflight import check_batches, preflight
from training.sweep.config import Sweep
from training.sweep.space import shown

READ_FROM_DISK = ("shards", "knn.val_shards", "knn.train_shards", "heldout.shards")
"""Swept fields for which every trial's data are looked at, not only the first one's."""


def check_trials(sweep: Sweep, *, num_ranks: int | None = None) -> DatasetInfo:
    """Checks that data, batch, ranks, labels and disk suit every trial that is known beforehand.

    Writes nothing.

    Args:
        sweep: with its points.
        num_ranks: workers of each trial; None: what the configuration says, 1 for ``auto``.

    Returns:
        The description of the base configuration's shards.

    Raises:
        InputError: names the trial and what does not fit.
    """
    workers = sweep.base.num_workers
    num_ranks = num_ranks or (1 if workers == "auto" else workers)
    points = sweep.points() or [{}]  # of Optuna's none is known: the base stands for them
    info = load_dataset_info(sweep.base.shards)
    all_differ = any(name in READ_FROM_DISK for name in sweep.space)
    for number, point in enumerate(points):
        config = sweep.trial_config(number, point)
        try:
            if number == 0 or all_differ:
                preflight(config, num_ranks)
            else:
                check_batches(config, info, num_ranks)
        except InputError as error:
            # What is wrong with the first trial is mostly wrong with all of them.
            which = f"trial {number} ({shown(point)}): " if number else ""
            raise InputError(f"{which}{error}") from error
    new = sum(
        not sweep.trial_config(number, point).out.exists() for number, point in enumerate(points)
    )
    check_disk(sweep.trial_config(0, points[0]), more_runs=max(0, new - 1))
    return info
