"""Features of images in a parquet file, their near-duplicates, and a choice that is spread out."""

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.progress import say
from pipeline.sources.listing import SourceOptions
from training.select.embed_config import EmbedConfig

PLACES = ("checkpoint", "data", "out")


def run() -> None:
    """Parse, embed, say where the results are."""
    brief = (*PLACES, "dtype", "duplicates", "diverse")
    config = parse(EmbedConfig, "jobs/embed.py", brief=brief, positional=PLACES)
    config = absolute_paths(config, *PLACES)
    # These import torch, which --help goes without.
    from pipeline.sources.pictures import open_pictures
    from training.core.threads import sharing_threads, threads_set_by_user
    from training.select.embed import embed_into_file

    columns = {"image_column": config.image_column, "label_column": config.label_column}
    pictures = open_pictures(config.data, SourceOptions(**columns))
    say(f"embedding {len(pictures.names)} images of {config.data} by {config.checkpoint}")
    with sharing_threads(fixed=threads_set_by_user()):
        values, lines = embed_into_file(config, pictures)
    conclude(values, *lines)


if __name__ == "__main__":
    main(run)
