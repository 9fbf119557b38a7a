"""Everything that can be known to be wrong with a sweep's trials before the first one starts."""

from pipeline.errors import InputError
from pipeline.manifest import DatasetInfo, load_dataset_info
from training.preflight import check_batches, preflight
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
            what = ", ".join(f"{name}={value}" for name, value in point.items())
            raise InputError(
                f"trial {number} ({what}): {error}" if point else str(error)
            ) from error
    return info
