"""Runs one precompute job and prints peak memory: of this process, and of what makes the shards.

Run by `test_precompute_memory.py` in a process of its own, so that the peaks are of one job.
"""

import json
import os
import sys
from contextlib import redirect_stdout

import ray

from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from tests.benchmarks.process_tree import peaks_watched


def main(data: str, out: str, saliency: str, shard_images: int) -> None:
    """Print the peaks in MiB, and the number and the size of the shards."""
    cores = len(os.sched_getaffinity(0))
    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    config = PrecomputeConfig(data=data, out=out, saliency=saliency, shard_images=shard_images)
    with redirect_stdout(sys.stderr), peaks_watched() as seen:
        info = precompute(config)
    processes = seen.values()
    tasks = {p.pid: p.peak_mib for p in processes if p.command.startswith("ray::")}
    children = [p.peak_mib for p in processes if "pipeline.core.child_process" in p.command]
    (driver,) = (p.peak_mib for p in processes if p.pid == os.getpid())
    figures = {
        "images": info.num_images,
        "shards": len(info.shards),
        "largest shard MiB": max(shard.num_bytes for shard in info.shards) / (1 << 20),
        "driver MiB": driver,
        "worst Ray worker MiB": max(tasks.values()),
        "worst child MiB": max(children),
    }
    print(json.dumps(figures))
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
