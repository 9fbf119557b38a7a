"""Make shards in child processes of this machine, without Ray: the same bytes, at once."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from queue import SimpleQueue

from pipeline.core.cores import own_cores
from pipeline.precompute.build import BuiltShard, ShardJob, looks_whole
from pipeline.precompute.isolation import Isolation
from pipeline.precompute.plan import planned_rows
from pipeline.precompute.run import Builder

MOST_LOCAL_IMAGES = 1000
"""Up to here a start of Ray takes longer than the work."""

LOOKS_AT_ONCE = 16
"""A look at a shard is one request to its store."""


def build_locally(
    jobs: Sequence[ShardJob], num_processes: int | None = None
) -> Iterator[BuiltShard]:
    """Make shards in as many processes as there are cores, by default; yields them in any order.

    Raises:
        InputError, OSError: as `Isolation.build`; shards that are made by then stay.
    """
    number = max(1, min(len(jobs), num_processes or len(own_cores())))
    idle: SimpleQueue[Isolation] = SimpleQueue()
    processes = [Isolation() for _ in range(number)]
    for process in processes:
        idle.put(process)

    def build(job: ShardJob) -> BuiltShard:
        process = idle.get()
        try:
            return process.build(job)
        finally:
            idle.put(process)

    pool = ThreadPoolExecutor(number)
    try:
        for done in as_completed([pool.submit(build, job) for job in jobs]):
            yield done.result()
    finally:
        for process in processes:
            process.end()
        pool.shutdown(cancel_futures=True)
        for process in processes:
            process.close()


def build_where_it_is_quicker(
    jobs: Sequence[ShardJob], most: int | None = None
) -> Iterable[BuiltShard]:
    """Make few images here, and more on Ray; shards that look whole are no work.

    `most` is the largest number that is made here; None: `MOST_LOCAL_IMAGES`. With 0, many shards
    are for Ray even where they look whole, as their digests are compared.
    """
    num_images = 0
    most = MOST_LOCAL_IMAGES if most is None else most
    if most == 0 and len(jobs) > MOST_LOCAL_IMAGES:
        return build_on_ray(jobs)
    pool = ThreadPoolExecutor(LOOKS_AT_ONCE)
    try:
        for job, whole in zip(jobs, pool.map(looks_whole, jobs), strict=True):
            if not whole:
                num_images += planned_rows(job.out, job.number, job.generation).num_rows
            if num_images > most:
                return build_on_ray(jobs)
    finally:
        pool.shutdown(cancel_futures=True)
    return build_locally(jobs)


def build_on_ray(jobs: Sequence[ShardJob]) -> Iterable[BuiltShard]:
    """Make the shards on Ray, which takes seconds to import: only where it is used."""
    from pipeline.precompute import ray_job

    return ray_job.build_on_ray(jobs)


def builder(*, local: bool, on_ray: bool) -> Builder:
    """Who makes shards: by default Ray where RAY_ADDRESS names a cluster, else who is quicker.

    Where all shards are made already, no Ray is started or asked, unless they are many.
    """
    if local:
        return build_locally
    on_ray = on_ray or bool(os.environ.get("RAY_ADDRESS"))
    return partial(build_where_it_is_quicker, most=0 if on_ray else None)
