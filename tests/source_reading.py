"""Images of a source, listed and read as jobs do."""

from pathlib import Path
from typing import Any

from pipeline.precompute.plan import make_plan
from pipeline.sources.listing import Collected, SourceOptions, collect
from pipeline.sources.reading import RawImage, read_images
from pipeline.sources.registry import open_source


def listed(place: str | Path, **options: Any) -> Collected:  # noqa: ANN401
    return collect(open_source(place, SourceOptions(**options)))


def read(place: str | Path, **options: Any) -> list[RawImage]:  # noqa: ANN401
    """All images of a source, through a plan of several shards."""
    listing = open_source(place, SourceOptions(**options))
    plan = make_plan(collect(listing), {}, shard_images=3, shard_bytes=1 << 30)
    images = [image for shard in plan.shards() for image in read_images(listing.data, shard)]
    assert len(images) == plan.info.num_images
    return images


def found(place: str | Path, **options: Any) -> dict[str, bytes]:  # noqa: ANN401
    return {image.source: image.data for image in read(place, **options)}
