"""Precompute in this process and its children, without Ray."""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from pipeline.core.errors import InputError
from pipeline.core.progress import track
from pipeline.precompute.begin import Work
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute
from pipeline.shardset.manifest import DatasetInfo


def precompute(config: PrecomputeConfig, num_processes: int = 1) -> DatasetInfo:
    """Make a shard set, or what is missing of it.

    An image that kills its process ends the run; `pipeline.precompute.ray_job` isolates it.

    Args:
        config: the shard set.
        num_processes: that make shards at once, 1 or more; 1: this process makes them.

    Raises:
        InputError: as `run_precompute`.
    """
    if num_processes < 1:
        raise InputError(f"num_processes {num_processes} must be 1 or more")
    return run_precompute(config, partial(build_all, num_processes=num_processes))


def build_all(jobs: Mapping[int, ShardJob], work: Work, num_processes: int = 1) -> list[BuiltShard]:
    """Makes all shards of the work, as `run_precompute` wants it."""
    numbered = [
        jobs[generation].numbered(number)
        for generation, plan in work.plans.items()
        for number in range(plan.num_shards)
    ]
    name = f"making {work.num_shards} shards"
    if num_processes == 1:
        return list(map(ensure_shard, track(numbered, name, len(numbered), "shards")))
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        return list(track(pool.map(ensure_shard, numbered), name, len(numbered), "shards"))
