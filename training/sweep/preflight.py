"""What is refused before the first trial: data, a cluster or a folder that does not fit.

A trial holds its workers' cores, and a GPU for each worker, from its start to its end. Its own
process only waits and holds no core. Trials that do not all fit would wait for each other for ever.
"""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, write_error
from pipeline.core.faults import point
from pipeline.shardset.manifest import DatasetInfo, load_dataset_info
from pipeline.storage.atomic import temporaries, write_atomically
from pipeline.storage.store import LocalStore
from training.config.file import MAY_DIFFER_ON_RESUME, config_from_json, differences
from training.config.resources import Node, Resources, fewer_resources
from training.engine.preflight import check_batches, check_disk, preflight
from training.sweep.config import OBJECTIVES, SWEEP_FILE, Sweep, trial_config
from training.sweep.space import shown

LOCK_FILE = ".lock"
VERSION = 1
DECIDES_TRIALS = (
    *("knn.", "heldout.", "collapse.", "on_collapse", "on_damaged"),
    *("selection", "replay.shards"),  # sweep.json has no digests of them
)
"""What may differ when a run is resumed, but not what trials are judged by."""
NOT_COMPARED = (
    *("version", "name", "num_trials"),
    *("fingerprint", "val_images"),  # of earlier versions
    *("config.knn.val_shards", "config.knn.train_shards", "config.heldout.shards"),
    *(f"config.{name}" for name in MAY_DIFFER_ON_RESUME if not name.startswith(DECIDES_TRIALS)),
)
"""Entries that may differ when a sweep is resumed."""
READ_FROM_DISK = {"shards", "selection", "knn.val_shards", "knn.train_shards", "heldout.shards"}
"""If one of these fields is swept, every trial's data are checked, else only the first's."""


def check_trials(sweep: Sweep, num_ranks: int) -> DatasetInfo:
    """Check data, batch, labels and disk for every trial that is known. Writes nothing.

    `num_ranks` is the workers of each trial. Returns the description of the base's shards.

    Raises `InputError`, which names the trial and what does not fit.
    """
    points = sweep.points() or [{}]  # Optuna's are not known: the base stands for them
    configs = [trial_config(sweep.base, number, point) for number, point in enumerate(points)]
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
) -> tuple[int, Resources]:
    """Divide a cluster among at most `most` trials: trials at once, and the resources of each.

    Each trial has a number of workers, each of which lies on one node, with a GPU if any node has
    some. `cpus` of a worker: None divides the nodes' cores by their workers. `concurrent` trials
    run at once: None means as many as fit.

    Raises `InputError` with the arithmetic, and a number that fits, if the trials do not.
    """
    cores, gpus = (sum(int(node.get(kind, 0)) for node in nodes) for kind in ("CPU", "GPU"))
    asked = min(concurrent or most, most)
    slots = [{**node, "CPU": node.get("CPU", 0) // (cpus or 1)} for node in nodes]
    found = fewer_resources(
        asked * workers, slots, lambda count: count % workers == 0, use_gpu=gpus > 0
    )
    trials = found.num_workers // workers if found else 0
    if found is not None and (trials == asked or not concurrent):
        return trials, Resources(workers, cpus or found.cpus_per_worker, found.use_gpu)
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


def describe(sweep: Sweep, data_digest: str) -> dict[str, Any]:
    """The content of ``sweep.json``; `data_digest` is that of the base configuration's shards."""
    asha = {"grace_epochs": sweep.grace_epochs, "reduction_factor": sweep.reduction_factor}
    description = {
        "version": VERSION,
        "name": sweep.name,
        "objective": {"name": sweep.objective, "mode": OBJECTIVES[sweep.objective]},
        "space": {name: domain.to_json() for name, domain in sweep.space.items()},
        "search": sweep.search,
        "seed": sweep.search_seed,
        "num_trials": sweep.num_trials,
        "scheduler": {"name": sweep.scheduler, **(asha if sweep.scheduler == "asha" else {})},
        "config": sweep.base.to_json(),
        "data_digest": data_digest,
    }
    return dict(json.loads(json.dumps(description)))


def check_folder(folder: Path, description: dict[str, Any]) -> None:
    """Raise `InputError` if the folder holds something else than the sweep that is described."""
    path = folder / SWEEP_FILE
    if not path.exists():
        found = set(folder.iterdir() if folder.is_dir() else [folder]) - set(temporaries(folder))
        if folder.exists() and found - {folder / LOCK_FILE}:
            raise InputError(f"{folder} exists and is no sweep: choose another --out")
        return
    try:
        recorded = json.loads(path.read_text())
        if recorded["version"] != VERSION:
            raise ValueError(f"version {recorded['version']} instead of {VERSION}")
        # An earlier program's has fewer fields; those that are missing had today's defaults.
        if "config" in recorded:
            base = config_from_json(recorded["config"], shards="", out=folder)
            recorded["config"] = base.to_json()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): choose another --out") from error
    lines = [
        line.removeprefix("config.")
        for line in differences(recorded, description)
        if not line.startswith(NOT_COMPARED)
    ]
    if lines:
        raise InputError(
            f"{folder} holds another sweep ({'; '.join(lines)}): start it with the same settings "
            "to resume it, or choose another --out"
        )


@contextmanager
def locked(folder: Path, description: dict[str, Any]) -> Iterator[None]:
    """Hold the folder's lock, which the system releases if the process dies; write ``sweep.json``.

    Raises `InputError` if another process holds it, or the folder cannot be written to.
    """
    try:
        point("create", folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise write_error(str(folder), error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another process runs the sweep in {folder}: wait for it, or choose another --out"
            ) from error
        LocalStore(folder).sweep()
        write_atomically(folder / SWEEP_FILE, json.dumps(description, indent=1).encode() + b"\n")
        yield
