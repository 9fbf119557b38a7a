"""Make a shard set with saliency maps from a folder of images."""

from dataclasses import replace

from jobs.cli import from_root, main, parse
from pipeline.precompute import PrecomputeConfig, precompute


def run() -> None:
    """Parse the command line and precompute."""
    config = parse(PrecomputeConfig, "jobs/precompute.py")
    precompute(replace(config, data=from_root(config.data), out=from_root(config.out)))


if __name__ == "__main__":
    main(run)
