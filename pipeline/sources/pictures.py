"""Decoded images by name, of a shard set or of any source that shards are made of."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.pixel_format import PLAIN, PixelFormat, check_channels
from pipeline.images.source_image import DecodedSource, read_source, store_values
from pipeline.shardset.manifest import check_shards, load_dataset_info, read_manifest
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE
from pipeline.sources.listing import SourceOptions, collect, planned
from pipeline.sources.reading import RawImage, read_images
from pipeline.sources.registry import open_source
from pipeline.sources.rows import joined
from pipeline.storage.storage import Location, is_url, open_store


class Pictures(NamedTuple):
    """Images, to be read once from first to last.

    `names` are relative to the data, or URLs; `labels` names of classes, None where there is none.
    `items` yields for each image what `pixels` decodes to uint8 [H, W, C], RGB of three, also in
    threads; it raises ImageError for a source image, and DamagedSample for a stored one.
    """

    names: list[str]
    labels: list[str | None]
    items: Iterator[Any]
    pixels: Callable[[Any], NDArray[np.uint8]]


def open_pictures(place: Location, form: PixelFormat = PLAIN, **columns: str) -> Pictures:
    """Open a shard set, or list images as precompute does, those of files by name.

    Source images become levels of `form`; `columns` are fields of `SourceOptions`.

    Raises:
        InputError: there are none, the set is damaged, or its images have another format.
    """
    if is_url(place):
        is_set = open_store(place).size(DATASET_FILE) is not None
    else:
        is_set = any(Path(place, name).is_file() for name in (DATASET_FILE, PLAN_FILE))
    items: Iterator[Any]
    pixels: Callable[[Any], NDArray[np.uint8]]
    if is_set:
        info = load_dataset_info(place)
        check_shards(place, info)
        form.check_same(info.pixels, str(place))
        parts = [read_manifest(place, one.name, ["source", "label"]) for one in info.shards]
        rows, classes = pa.concat_tables(parts), info.class_names
        items, pixels = iter(range(rows.num_rows)), ShardSetReader(place, info).read_image
    else:
        listing = open_source(place, SourceOptions(**columns))  # type: ignore[arg-type]
        found = collect(listing)
        rows, classes = joined(found.rows), found.class_names
        rows = rows if listing.keeps_order else rows.sort_by("source").combine_chunks()
        items, pixels = read_images(listing.data, planned(rows)), partial(_pixels, form)
    labels = rows["label"].to_pylist() if classes else [None] * rows.num_rows
    named = [None if label is None else classes[label] for label in labels]
    return Pictures(rows["source"].to_pylist(), named, items, pixels)


def _pixels(form: PixelFormat, image: RawImage) -> NDArray[np.uint8]:
    found = read_source(image.data)
    found = found if isinstance(found, DecodedSource) else store_values(found, form)
    check_channels(found.pixels, form.channels)
    return found.pixels
