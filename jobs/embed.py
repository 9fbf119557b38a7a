"""Features of images in a parquet file, their near-duplicates, and a choice that is spread out."""

from jobs.cli import absolute_paths, conclude, main, parse
from training.select.embed_config import EmbedConfig

PLACES = ("checkpoint", "data", "out")


def run() -> None:
    """Parse, embed, say where the results are."""
    brief = (*PLACES, "dtype", "duplicates", "diverse")
    config = parse(EmbedConfig, "jobs/embed.py", brief=brief, positional=PLACES)
    config = absolute_paths(config, *PLACES)
    # These import torch, which --help goes without.
    from training.core.threads import sharing_threads, threads_set_by_user
    from training.select.embed import embed_into_file

    with sharing_threads(fixed=threads_set_by_user()):
        values, lines = embed_into_file(config)
    conclude(values, *lines)


if __name__ == "__main__":
    main(run)
