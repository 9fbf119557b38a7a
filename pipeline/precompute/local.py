"""Precompute in this process and its children, without Ray."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from pipeline.core.errors import InputError
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.manifest import DatasetInfo


def precompute(config: PrecomputeConfig, num_processes: int = 1) -> DatasetInfo:
    """Make a shard set, or what is missing of it.

    An image that kills its process ends the run; `pipeline.precompute.ray_job` isolates it.
    With `num_processes` 1, this process makes the shards. Raises InputError as `run_precompute`.
    """
    if num_processes < 1:
        raise InputError(f"num_processes {num_processes} must be 1 or more")
    return run_precompute(config, partial(build_all, num_processes=num_processes))


def build_all(jobs: Sequence[ShardJob], num_processes: int = 1) -> Iterator[BuiltShard]:
    """Make all shards, see `pipeline.precompute.run.Builder`."""
    if num_processes == 1:
        yield from map(ensure_shard, jobs)
        return
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(ensure_shard, jobs)
