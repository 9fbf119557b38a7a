"""Score saliency sources on images with masks, or stored maps against maps on the views."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from jobs.cli import absolute_paths, conclude, main, parse
from pipeline.core.errors import InputError
from pipeline.core.progress import say
from pipeline.saliency.registry import described_saliency_source, parse_saliency_source
from pipeline.saliency.score_report import ScoreConfig, score_report
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.storage import Location

if TYPE_CHECKING:
    from training.evaluate.fidelity import Fidelity

BRIEF = ("images", "masks", "saliency", "maps", "picture", "half", "fidelity")


def run() -> None:
    """Parse the command line, score, give the table."""
    config = parse(ScoreConfig, "jobs/score.py", brief=BRIEF, positional=BRIEF[:2])
    config = absolute_paths(config, "images", "masks", "maps", "picture", "fidelity")
    if config.fidelity is not None:
        found = fidelity(config, config.fidelity)
        conclude(asdict(found), *found.lines())
    else:
        values, lines = score_report(config)
        conclude(values, *lines)


def fidelity(config: ScoreConfig, shards: Location) -> "Fidelity":
    """Compare a set's stored maps with those of a source on random crops.

    Raises:
        InputError: shards that cannot be read, or whose own source cannot look at views.
    """
    # These import torch, which --help goes without.
    from training.evaluate.fidelity import measure_fidelity
    from training.evaluate.labelled import stored_images
    from training.views.settings import ViewConfig

    described = load_dataset_info(shards).saliency
    try:
        source = (
            described_saliency_source(described)
            if config.fidelity_source is None
            else parse_saliency_source(config.fidelity_source)
        ).pinned()
    except InputError as error:
        raise InputError(f"{error}: name what looks at the crops, --fidelity-source") from error
    say(
        f"comparing the stored maps of {shards} ({described['source']}) with "
        f"{config.fidelity_source or 'the same source'} on crops, foreground by {config.foreground}"
    )
    return measure_fidelity(
        stored_images(shards),
        source.on_view,
        views=ViewConfig(size=config.fidelity_size, grid=config.fidelity_grid),
        rule=config.foreground,
        num_images=config.fidelity_images,
        num_crops=config.fidelity_crops,
    )


if __name__ == "__main__":
    main(run)
