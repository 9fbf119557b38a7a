"""Score saliency sources on images with masks, or stored maps against maps on the views."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.cli import conclude, from_root, main, parse
from pipeline.core.errors import InputError
from pipeline.core.progress import say
from pipeline.saliency.registry import described_saliency_source, parse_saliency_source
from pipeline.saliency.score_report import ScoreConfig, score_report
from pipeline.shardset.manifest import load_dataset_info
from pipeline.storage.storage import Location, is_url

if TYPE_CHECKING:
    from training.evaluate.fidelity import Fidelity

BRIEF = ("images", "masks", "saliency", "maps", "picture", "half", "fidelity")


def run() -> None:
    """Parse the command line, score, give the table."""
    config = parse(ScoreConfig, "jobs/score.py", brief=BRIEF)
    config = replace(
        config,
        images=config.images and from_root(config.images),
        masks=config.masks and from_root(config.masks),
        maps=config.maps and from_root(config.maps),
        picture=config.picture and from_root(config.picture),
        fidelity=shards_of(config),
    )
    if config.fidelity is not None:
        found = fidelity(config, config.fidelity)
        conclude(asdict(found), *found.lines())
        return
    values, lines = score_report(config)
    conclude(values, *lines)


def shards_of(config: ScoreConfig) -> Location | None:
    """The shards of `--fidelity`, a path as an absolute one."""
    given = config.fidelity
    return given if given is None or is_url(given) else from_root(Path(given))


def fidelity(config: ScoreConfig, shards: Location) -> "Fidelity":
    """Compare a set's stored maps with those of a source on random crops.

    Raises:
        InputError: shards that cannot be read, or whose own source cannot look at views.
    """
    # These import torch, which --help goes without.
    from training.evaluate.fidelity import measure_fidelity
    from training.evaluate.labelled import StoredImages
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
        StoredImages(shards),
        source.on_view,
        views=ViewConfig(size=config.fidelity_size, grid=config.fidelity_grid),
        rule=config.foreground,
        num_images=config.fidelity_images,
        num_crops=config.fidelity_crops,
    )


if __name__ == "__main__":
    main(run)
