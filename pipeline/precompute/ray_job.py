"""Work on shards with Ray Data, such as making them: one row is one shard, many are worked on."""

import gc
import logging
import pickle
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError
from ray.util.annotations import RayDeprecationWarning

from pipeline.core.errors import JobError, write_error
from pipeline.precompute.build import BuiltShard, ShardJob
from pipeline.precompute.isolation import Isolation
from pipeline.precompute.ray_session import ray_running, without_lines
from pipeline.shardset.schema import SHARDS_FOLDER
from pipeline.storage.atomic import temporaries
from pipeline.storage.store import LocalStore, Store

MAX_RETRIES = 100
"""How often a shard is tried again when its actor dies. Images cannot kill it (`isolation`), but
the loss of a node takes many tries: until Ray knows of it, each fails at once."""
RESTART_NOTE = b"has constructor arguments in the object store and max_restarts > 0"
"""Ray prints it for every pool of Ray Data: the argument is Ray Data's own, which the driver holds
for as long as the pool lives."""
ACTORS_PER_GPU = 4
"""One decodes and writes while the network of another is at work."""
Work = Callable[[Any], Any]


class ProcessesDied(RuntimeError):
    """Processes died again and again; the message is Ray's about the last one."""


def build_on_ray(jobs: Sequence[ShardJob]) -> Iterator[BuiltShard]:
    """Make the shards on all of Ray's CPUs; see `run_precompute` and `ray_running`."""
    num_built, wants_gpu = 0, jobs[0].saliency.wants_gpu
    try:
        for built in map_on_ray(_shard_maker, jobs, actors_per_gpu=ACTORS_PER_GPU * wants_gpu):
            num_built += 1
            yield built
    except ProcessesDied as error:
        raise RuntimeError(
            f"processes died again and again over {_suspects(jobs[0].out)}: {num_built} of "
            f"{len(jobs)} shards are made and kept, and another run goes on there; of the last, "
            f"Ray says: {error}"
        ) from None


def map_on_ray(
    make: Callable[[], Work], items: Sequence[Any], *, actors_per_gpu: int = 1
) -> Iterator[Any]:
    """Work on items on all of Ray's CPUs, or its GPUs; yields the results, in any order.

    `make`, which can be pickled, makes what an actor works with. `actors_per_gpu` actors share a
    GPU, where there are some; 0: there is an actor for each CPU.

    Raises:
        JobError: as the work does.
        ProcessesDied: an actor died more often than it is tried again.
    """
    failure: Exception | None = None
    try:
        with ray_running(), _quiet_ray_data(), without_lines(RESTART_NOTE):
            for row in _mapped(make, items, actors_per_gpu).iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, Exception):
                    failure = result
                    break
                yield result
    except RayError as error:
        failure = ProcessesDied(str(error))
    if failure is not None:
        # Raised only here: actors hold their CPUs as long as Ray Data's executor exists, and an
        # exception that passes through the loop keeps it.
        gc.collect()
        raise failure


def _mapped(
    make: Callable[[], Work], items: Sequence[Any], actors_per_gpu: int
) -> ray.data.Dataset:
    """The plan for Ray: an actor for every CPU, or several for every GPU if they want one.

    Actors and not tasks: the next shard waits at the actor, where a task is asked for only once
    another has ended (a fifth of a second later), and a network is loaded once.
    """
    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    on_gpu = num_gpus * actors_per_gpu > 0
    num_actors = num_gpus * actors_per_gpu if on_gpu else int(resources.get("CPU", 1))
    size = min(len(items), num_actors)
    rows = [{"number": number} for number in range(len(items))]
    dataset = ray.data.from_items(rows, override_num_blocks=len(items))
    with warnings.catch_warnings():
        # max_task_retries has no other way in: without it Ray Data tries a crash for ever
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return dataset.map(
            _ShardWorker,  # type: ignore[arg-type]  # a class is an actor: the stubs do not say so
            fn_constructor_kwargs={"make": make},
            fn_kwargs={"items": items},
            num_cpus=1,
            num_gpus=1 / actors_per_gpu if on_gpu else 0,
            max_task_retries=MAX_RETRIES,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                initial_size=size,
                max_size=size if on_gpu else len(items),  # as many as a growing cluster holds
                max_tasks_in_flight_per_actor=2,
            ),
        )


class _ShardWorker:
    """An actor; what it works with stays loaded.

    An error is returned as a row: an exception in Ray Data would be buried under the traces of
    Ray's own processes.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        self._make = make
        self._work: Work | None = None

    def __call__(self, row: dict[str, Any], items: Sequence[Any]) -> dict[str, bytes]:
        try:
            self._work = self._work or self._make()
            result = self._work(items[row["number"]])
        except JobError as error:
            result = error
        except Exception as error:  # a bug of the program: with its trace
            result = RuntimeError("".join(traceback.format_exception(error)))
        return {"result": pickle.dumps(result)}


def _shard_maker() -> Callable[[ShardJob], BuiltShard]:
    isolation = Isolation()  # its child process keeps what is loaded

    def make(job: ShardJob) -> BuiltShard:
        try:
            return isolation.build(job)
        except OSError as error:
            raise write_error(job.name, error) from error

    return make


def _suspects(out: Store) -> str:
    """The shards with most temporary files: their processes have died each time."""
    if not isinstance(out, LocalStore):
        return "a shard"
    left = Counter(path.name[1:].split(".")[0] for path in temporaries(out.path(SHARDS_FOLDER)))
    most = max(left.values(), default=0)
    return " or ".join(sorted(name for name, n in left.items() if n == most)) or "a shard"


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Ray Data without its progress bars and its log; failures are raised, and reported once."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, logger.level
    context.enable_progress_bars = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        logger.setLevel(before[1])
