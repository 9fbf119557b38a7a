"""The --remove of jobs/precompute.py: images are taken out of a finished shard set."""

import sys

from jobs.cli import absolute_paths, conclude, from_root, parse
from pipeline.core.errors import InputError
from pipeline.core.progress import numbered
from pipeline.precompute.remove import RemoveConfig, read_names, remove_images
from pipeline.storage.storage import open_store
from training.config.file import runs_on


def remove() -> int:
    """Remove the images of a list, and name the runs that trained on them."""
    config = absolute_paths(parse(RemoveConfig, "jobs/precompute.py"), "out", "runs")
    try:
        is_piped = str(config.remove) == "-"
        given = read_names(sys.stdin.buffer if is_piped else from_root(config.remove).open("rb"))
    except OSError as error:
        raise InputError(f"--remove {config.remove} cannot be read: {error.strerror}") from error
    if not given:
        raise InputError(f"--remove {config.remove} is empty: wanted is an image a line")
    if config.runs is not None and not config.runs.is_dir():
        raise InputError(f"--runs {config.runs}: no such folder")
    removal = remove_images(config.out, given)
    runs = runs_on(config.runs, removal.digests) if config.runs is not None else []
    removed = numbered(len(removal.sources), "image")
    conclude(
        {"out": config.out, "removed": removal.sources, "runs": runs},
        *(f"trained on the set while it had them: {run}" for run in runs),
        f"results    {removed} removed from {open_store(config.out).url}",
    )
    return 0
