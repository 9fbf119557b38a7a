"""Precompute without Ray, in this process."""

from pipeline.manifest import DatasetInfo
from pipeline.precompute.config import PrecomputeConfig
from pipeline.precompute.local import precompute


def precompute_here(config: PrecomputeConfig) -> DatasetInfo:
    return precompute(config)
