"""Check before the first trial that the trials' data are sound and that the cluster holds them.

A trial holds its workers' cores, and a GPU for each worker, from its start to its end. Its own
process only waits and holds no core. Trials that do not all fit would wait for each other for ever,
so such a sweep is refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.errors import InputError
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from training.config.resources import Node, Resources, fewer_resources
from training.engine.preflight import check_batches, check_disk, preflight
from training.sweep.config import Sweep
from training.sweep.space import shown

READ_FROM_DISK = {"shards", "knn.val_shards", "knn.train_shards", "heldout.shards"}
"""If one of these fields is swept, every trial's data are checked, else only the first's."""


class Share(NamedTuple):
    """The trials that run at once, and the resources of each of them."""

    trials: int
    resources: Resources


def check_trials(sweep: Sweep, num_ranks: int) -> DatasetInfo:
    """Check data, batch, labels and disk for every trial that is known. Writes nothing.

    `num_ranks` is the workers of each trial. Returns the description of the base's shards.

    Raises:
        InputError: names the trial and what does not fit.
    """
    points = sweep.points() or [{}]  # Optuna's are not known: the base stands for them
    configs = [sweep.trial_config(number, point) for number, point in enumerate(points)]
    info = load_dataset_info(sweep.base.shards)
    for number, config in enumerate(configs):
        try:
            if number == 0 or READ_FROM_DISK & sweep.space.keys():
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


def share_of(
    nodes: Sequence[Node], *, concurrent: int | None, most: int, workers: int, cpus: int | None
) -> Share:
    """Divide a cluster among at most `most` trials.

    Each trial has a number of workers, each of which lies on one node, with a GPU if any node has
    some. `cpus` of a worker: None divides the nodes' cores by their workers. `concurrent` trials
    run at once: None means as many as fit.

    Raises:
        InputError: the trials do not fit; the message has the arithmetic and a number that fits.
    """
    cores, gpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU"))
    asked = min(concurrent or most, most)
    slots = [{**node, "CPU": node.get("CPU", 0) // (cpus or 1)} for node in nodes]
    found = fewer_resources(
        asked * workers, slots, lambda count: count % workers == 0, use_gpu=gpus > 0
    )
    trials = found.num_workers // workers if found else 0
    if found is not None and (trials == asked or not concurrent):
        return Share(trials, Resources(workers, cpus or found.cpus_per_worker, found.use_gpu))
    needed = (asked if concurrent else 1) * workers
    needs = f"CPUs: {needed * (cpus or 1)}" + (f", GPUs: {needed}" if gpus else "")
    advice = f"--concurrent {trials} fits"
    if not trials:
        advice = "not even one trial fits: lower --num-workers or --cpus-per-worker"
    raise InputError(
        f"the trials would wait for each other for ever. They need {needed // workers} x {workers} "
        f"x {cpus or 1} (trials x workers x cores) = {needs}; the cluster has CPUs: {cores}, "
        f"GPUs: {gpus}, on {len(nodes)} node(s), and a worker lies on one; {advice}"
    )
