"""Precompute without Ray: one shard after the other, in this process."""

from collections.abc import Mapping

from pipeline.manifest import DatasetInfo
from pipeline.precompute.begin import Work
from pipeline.precompute.build import BuiltShard, ShardJob, ensure_shard
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.run import run_precompute


def build_here(jobs: Mapping[int, ShardJob], work: Work) -> list[BuiltShard]:
    return [
        ensure_shard(jobs[generation].numbered(number))
        for generation, plan in work.plans.items()
        for number in range(plan.num_shards)
    ]


def precompute_here(config: PrecomputeConfig) -> DatasetInfo:
    return run_precompute(config, build_here)
