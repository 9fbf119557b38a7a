"""Make a shard set with saliency maps from a folder of images."""

from jobs.cli import main, parse
from pipeline.precompute import PrecomputeConfig, precompute


def run() -> None:
    """Parse the command line and precompute."""
    precompute(parse(PrecomputeConfig, "jobs/precompute.py"))


if __name__ == "__main__":
    main(run)
