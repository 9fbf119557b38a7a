"""Make a shard set with saliency maps from images of any source, or read one back (--verify)."""

import sys
from dataclasses import replace
from pathlib import Path

from jobs.cli import from_root, main, parse
from pipeline.precompute.ray_job import PrecomputeConfig, precompute
from pipeline.stores.storage import is_url
from pipeline.verify import VerifyConfig, verify_set

VERIFY = "--verify"
EXIT_PROBLEMS = 1
DESCRIPTION = """From images to a shard set with saliency maps.

With --verify OUT (and --processes N) instead of these options: read the shard set OUT back, name
everything that is wrong with it, and exit with 1 if anything is."""


def run() -> int:
    """Parse the command line and precompute, or verify."""
    if any(word.split("=")[0] == VERIFY for word in sys.argv[1:]):
        return verify(parse(VerifyConfig, "jobs/precompute.py"))
    config = parse(PrecomputeConfig, "jobs/precompute.py", description=DESCRIPTION)
    data, out, masks = (_place(place) for place in (config.data, config.out, config.masks))
    precompute(replace(config, data=data, out=out, masks=masks))
    return 0


def verify(config: VerifyConfig) -> int:
    """Name what is wrong with a shard set; returns the exit code, 1 where anything is."""
    problems = verify_set(_place(config.verify), config.processes)
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_PROBLEMS if problems else 0


def _place(given: str | Path) -> str:
    """A place as every process sees it; none stays none."""
    return str(given) if not str(given) or is_url(given) else str(from_root(Path(given)))


if __name__ == "__main__":
    main(run)
