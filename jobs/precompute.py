"""Make a shard set with saliency maps from images: a folder, a bucket, a list, a table or tars."""

from dataclasses import replace
from pathlib import Path

from jobs.cli import from_root, main, parse
from pipeline.precompute import PrecomputeConfig, precompute
from pipeline.storage import is_url


def run() -> None:
    """Parse the command line and precompute."""
    config = parse(PrecomputeConfig, "jobs/precompute.py")
    data, out, masks = (_place(place) for place in (config.data, config.out, config.masks))
    precompute(replace(config, data=data, out=out, masks=masks))


def _place(given: str | Path) -> str:
    """A place as every process sees it; none stays none."""
    return str(given) if not str(given) or is_url(given) else str(from_root(Path(given)))


if __name__ == "__main__":
    main(run)
