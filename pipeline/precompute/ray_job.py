"""The Ray Data job: images become a shard set. One row = one shard, many at once."""

import gc
import logging
import pickle
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.core.errors import InputError, JobError, write_error
from pipeline.core.progress import show
from pipeline.precompute.begin import Work
from pipeline.precompute.build import BuiltShard, ShardJob
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.isolation import ShardError, process_isolation
from pipeline.precompute.ray_session import ray_running, without_lines
from pipeline.precompute.report import started_work, with_shard
from pipeline.precompute.run import run_precompute
from pipeline.saliency.interface import wants_gpu
from pipeline.shardset.manifest import DatasetInfo
from pipeline.shardset.schema import SHARDS_FOLDER
from pipeline.storage.atomic import temporaries
from pipeline.storage.local_store import LocalStore
from pipeline.storage.storage import Store

__all__ = ["PrecomputeConfig", "precompute"]

MAX_RETRIES = 100
"""How often a shard is tried again when its actor dies. Images cannot kill it (`isolation`), but
the loss of a node takes many tries: until Ray knows of it, each fails at once."""
RESTART_NOTE = b"has constructor arguments in the object store and max_restarts > 0"
"""Ray prints it for every pool of Ray Data: the argument is Ray Data's own, which the driver holds
for as long as the pool lives."""
ACTORS_PER_GPU = 4
"""One decodes and writes while the network of another is at work."""


def precompute(config: PrecomputeConfig) -> DatasetInfo:
    """Make a shard set, or what is missing of it, and describe it in dataset.json.

    Uses the Ray that is running (RAY_ADDRESS is respected), else starts one for the time.

    Raises:
        InputError: the data or the output cannot be used, another plan was begun there, a source
            or a store cannot be read or has changed, or too many images had to be rejected.
    """
    return run_precompute(config, _build_all)


def _build_all(jobs: Mapping[int, ShardJob], work: Work) -> list[BuiltShard]:
    """Make the shards on all of Ray's CPUs.

    What a shard fails of travels back as a row: an exception in Ray Data would bury it under the
    traces of its own processes.
    """
    rows = [
        {"generation": generation, "number": number}
        for generation, plan in work.plans.items()
        for number in range(plan.num_shards)
    ]
    standing = started_work(work.num_images)
    show(standing)
    built: list[BuiltShard] = []
    failure: Exception | None = None
    try:
        with ray_running(), _quiet_ray_data(), without_lines(RESTART_NOTE):
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            for row in _mapped(dataset, len(rows), jobs).iter_rows():
                if row["error"] or row["fault"]:
                    failure = (
                        pickle.loads(row["error"]) if row["error"] else RuntimeError(row["fault"])
                    )
                    break
                shard: BuiltShard = pickle.loads(row["shard"])
                built.append(shard)
                standing = with_shard(standing, shard)
                show(standing)
    except RayError as error:
        (job, *_) = jobs.values()
        failure = RuntimeError(
            f"processes died again and again over {_suspects(job.out)}: {len(built)} of "
            f"{len(rows)} shards are made and kept, and another run goes on there; of the last, "
            f"Ray says: {error}"
        )
    if failure is not None:
        # Raised only here: actors hold their CPUs for as long as Ray Data's executor is there, and
        # an exception on its way keeps it.
        gc.collect()
        raise failure
    return built


def _mapped(
    dataset: ray.data.Dataset, num_rows: int, jobs: Mapping[int, ShardJob]
) -> ray.data.Dataset:
    """Ray's plan: an actor for every CPU, or several for every GPU where the maps want one.

    Actors and not tasks: the next shard waits at the actor, where a task is asked for only once
    another has ended (a fifth of a second later), and a network is loaded once.
    """
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    on_gpu = num_gpus > 0 and any(wants_gpu(job.saliency) for job in jobs.values())
    size = min(num_rows, num_gpus * ACTORS_PER_GPU if on_gpu else int(resources.get("CPU", 1)))
    with warnings.catch_warnings():
        # max_task_retries has no other way in: without it Ray Data tries a crash for ever
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map(
            _ShardMaker,  # type: ignore[arg-type]  # a class is an actor: the stubs do not say so
            fn_kwargs={"jobs": jobs},
            num_cpus=1,
            num_gpus=1 / ACTORS_PER_GPU if on_gpu else 0,
            max_task_retries=MAX_RETRIES,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=size,
                max_size=size if on_gpu else num_rows,  # as many as a growing cluster holds
                max_tasks_in_flight_per_actor=2,
            ),
        )


class _ShardMaker:
    """An actor that makes shards; its child process keeps what is loaded."""

    def __call__(self, row: dict[str, Any], jobs: Mapping[int, ShardJob]) -> dict[str, Any]:
        return _run_job(row, jobs)


def _suspects(out: Store) -> str:
    """The shards that have left most temporary files: whoever makes them dies each time."""
    if not isinstance(out, LocalStore):
        return "a shard"
    left = Counter(path.name[1:].split(".")[0] for path in temporaries(out.path(SHARDS_FOLDER)))
    most = max(left.values(), default=0)
    return " or ".join(sorted(name for name, n in left.items() if n == most)) or "a shard"


def _run_job(row: dict[str, Any], jobs: Mapping[int, ShardJob]) -> dict[str, Any]:
    """Make one shard, in an actor of Ray's."""
    template = jobs[row["generation"]]
    job = template.numbered(row["number"])
    try:
        shard = process_isolation().build(job)
    except (JobError, ShardError, OSError) as error:
        wrong: JobError
        if isinstance(error, OSError):
            wrong = write_error(job.name, error)
        else:
            wrong = error if isinstance(error, JobError) else InputError(str(error))
        return {"error": pickle.dumps(wrong), "fault": "", "shard": b""}
    except Exception as error:  # of the program, not of an image or a place: with its trace
        trace = "".join(traceback.format_exception(error))
        return {"error": b"", "fault": f"{job.name} cannot be made:\n{trace}", "shard": b""}
    return {"error": b"", "fault": "", "shard": pickle.dumps(shard)}


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data without its progress bars and its log."""
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    chatter = logging.getLogger("ray.data")
    level = chatter.level
    context.enable_progress_bars = False
    chatter.setLevel(logging.CRITICAL)  # what fails is raised, and said once
    try:
        yield
    finally:
        context.enable_progress_bars = before
        chatter.setLevel(level)
