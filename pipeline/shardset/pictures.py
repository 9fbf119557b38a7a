"""Decoded images by name, in an order that does not change: those of a shard set, for one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.shardset.manifest import check_shards, load_dataset_info, read_manifest
from pipeline.shardset.reader import ShardSetReader
from pipeline.storage.storage import Location


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images in an order that does not change, to be read from first to last.

    Attributes:
        names: of their files: relative to the data, or URLs.
        labels: names of their classes; None where there is none.
        items: begins to read, and yields for each image what `pixels` decodes.
        pixels: an image, RGB uint8 [H, W, 3]; may be called in threads. ImageError: a source image
            cannot be decoded; DamagedSample: a stored one.
    """

    names: list[str]
    labels: list[str | None]
    items: Callable[[], Iterator[Any]]
    pixels: Callable[[Any], NDArray[np.uint8]]


def stored_pictures(place: Location) -> Pictures:
    """Open a shard set; InputError where it is missing or damaged."""
    info = load_dataset_info(place)
    check_shards(place, info)
    columns = ["source", "label"]
    rows = pa.concat_tables([read_manifest(place, one.name, columns) for one in info.shards])
    numbers = rows["label"].to_pylist()
    reader = ShardSetReader(place, info)
    return Pictures(
        names=rows["source"].to_pylist(),
        labels=[info.class_names[n] if info.class_names else None for n in numbers],
        items=lambda: iter(range(reader.num_samples)),
        pixels=reader.read_image,
    )
