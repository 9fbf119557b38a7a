"""Precompute without Ray, in this process."""

from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local import precompute
from pipeline.shardset.manifest import DatasetInfo


def precompute_here(config: PrecomputeConfig) -> DatasetInfo:
    return precompute(config)
