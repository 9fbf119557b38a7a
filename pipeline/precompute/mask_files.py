"""Masks that were made elsewhere: which mask file belongs to which image."""

import os

import numpy as np
import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix
from pipeline.precompute.plan import source_hashes
from pipeline.sources.collected import Collected
from pipeline.sources.listing import LISTING_SCHEMA
from pipeline.storage.storage import Store, printable

NPY = ".npy"
NUM_NAMED = 5
"""How many images without a mask a message names."""


def match_masks(images: Collected, store: Store) -> Collected:
    """Give each image the mask file of the same relative name up to its suffix.

    Args:
        images: their sources say the names.
        store: the folder of masks: images and `.npy` files.

    Returns:
        The images with `mask` and `mask_bytes`, null where there is none.

    Raises:
        InputError: no mask there, or two for one name.
    """
    names, sizes, stems = [], [], []
    for name, size in store.files():
        if size >= 0 and (name.endswith(NPY) or has_image_suffix(name)):
            names.append(os.fsencode(name))
            sizes.append(size)
            stems.append(os.path.splitext(printable(name))[0])
    if not names:
        raise InputError(f"no mask below {store.url}: images or .npy files are wanted")
    listed = pa.chunked_array([pa.array(stems, pa.large_string())])
    keys = source_hashes(listed, 8)[:, 0]
    by_key = np.argsort(keys, kind="stable")
    twice = np.flatnonzero(keys[by_key][1:] == keys[by_key][:-1])
    if len(twice):
        both = [printable(os.fsdecode(names[i])) for i in by_key[twice[0] : twice[0] + 2]]
        raise InputError(f"{store.url} has two masks of one name, {' and '.join(both)}: remove one")
    wanted = source_hashes(_stems(images.rows["source"]), 8)[:, 0]
    places = np.minimum(np.searchsorted(keys[by_key], wanted), len(keys) - 1)
    found = keys[by_key][places] == wanted
    rows = pa.array(np.where(found, by_key[places], 0), mask=~found)
    mask_names = pa.array(names, pa.large_binary()).take(rows)
    mask_sizes = pa.array(sizes, pa.int64()).take(rows)
    table = images.rows.append_column(LISTING_SCHEMA.field("mask"), mask_names)
    table = table.append_column(LISTING_SCHEMA.field("mask_bytes"), mask_sizes)
    return Collected(table, images.class_names, images.unlabelled_because)


def check_masks(images: Collected, where: str) -> None:
    """Refuse images that have no mask.

    Raises:
        InputError: counts them and names the first ones.
    """
    rows = images.rows
    has_mask = np.zeros(rows.num_rows, bool)
    for name in ("mask", "mask_offset"):
        if name in rows.column_names:
            has_mask |= rows[name].is_valid().to_numpy()
    missing = np.flatnonzero(~has_mask)
    if not len(missing):
        return
    # a million names are no help: the first in the listing's order
    first = rows["source"].take(pa.array(missing[:NUM_NAMED])).to_pylist()
    more = ", ..." if len(missing) > NUM_NAMED else ""
    raise InputError(
        f"{len(missing)} of {rows.num_rows} images have no mask in {where}: "
        f"{', '.join(sorted(first))}{more}; add them, or give these images a uniform map with "
        "--missing-masks uniform"
    )


def _stems(sources: pa.ChunkedArray) -> pa.ChunkedArray:
    """Sources without their suffix."""
    return pa.chunked_array(
        [
            pa.array([os.path.splitext(s)[0] for s in part.to_pylist()], pa.large_string())
            for chunk in sources.chunks
            for part in _slices(chunk)
        ],
        pa.large_string(),
    )


def _slices(chunk: pa.Array, rows: int = 1 << 16) -> list[pa.Array]:
    return [chunk.slice(start, rows) for start in range(0, len(chunk), rows)]
