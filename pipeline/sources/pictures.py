"""Decoded images of a shard set, or of any source that shards are made of."""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.images.source_image import decode_source
from pipeline.shardset.pictures import Pictures, stored_pictures
from pipeline.shardset.schema import DATASET_FILE, PLAN_FILE
from pipeline.sources.listing import PLAN_SCHEMA, SourceOptions, collect
from pipeline.sources.reading import RawImage, read_images
from pipeline.sources.registry import open_source
from pipeline.storage.storage import Location, is_url, open_store


def open_pictures(place: Location, options: SourceOptions | None = None) -> Pictures:
    """Open a shard set, or list images as precompute does, those of files by name.

    Raises:
        InputError: there are none, or the set is damaged.
    """
    if is_url(place):
        is_set = open_store(place).size(DATASET_FILE) is not None
    else:
        is_set = any(Path(place, name).is_file() for name in (DATASET_FILE, PLAN_FILE))
    if is_set:
        return stored_pictures(place)
    listing = open_source(place, options or SourceOptions())
    found = collect(listing)
    rows = found.rows if listing.keeps_order else found.rows.sort_by("source")
    classes = found.class_names
    labels = rows["label"].to_pylist() if classes else [None] * rows.num_rows
    parts = [rows.select([n for n in rows.column_names if n in PLAN_SCHEMA.names])]
    whole = pa.concat_tables([*parts, PLAN_SCHEMA.empty_table()], promote_options="default")
    (batch,) = whole.select(PLAN_SCHEMA.names).combine_chunks().to_batches()
    return Pictures(
        names=rows["source"].to_pylist(),
        labels=[None if label is None else classes[label] for label in labels],
        items=partial(read_images, listing.data, batch),
        pixels=_decoded,
    )


def _decoded(image: RawImage) -> NDArray[np.uint8]:
    return decode_source(image.data).pixels
