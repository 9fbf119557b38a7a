"""Masks that were made elsewhere: which mask file belongs to which image."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix
from pipeline.sources.listing import PLAN_SCHEMA, Collected
from pipeline.storage.store import Store, printable

NUM_NAMED = 5
"""How many images without a mask a message names."""


def match_masks(images: Collected, store: Store) -> Collected:
    """Give each image the mask file (an image or `.npy`) of the same name up to its suffix.

    Sets `mask` and `mask_bytes`, null if there is none. InputError: no mask, or two for one name.
    """
    masks: dict[str, tuple[str, int]] = {}
    for name, size in store.files():
        if size >= 0 and (name.endswith(".npy") or has_image_suffix(name)):
            stem = os.path.splitext(printable(name))[0]
            if stem in masks:
                both = " and ".join(sorted(printable(n) for n in (masks[stem][0], name)))
                raise InputError(f"{store.url} has two masks of one name, {both}: remove one")
            masks[stem] = name, size
    if not masks:
        raise InputError(f"no mask below {store.url}: images or .npy files are wanted")
    table = images.rows
    stems = [os.path.splitext(source)[0] for source in table["source"].to_pylist()]
    rows = pc.index_in(pa.array(stems), value_set=pa.array(list(masks)))
    names, sizes = zip(*masks.values(), strict=True)
    for column, values in (("mask", list(map(os.fsencode, names))), ("mask_bytes", list(sizes))):
        field = PLAN_SCHEMA.field(column)
        table = table.append_column(field, pa.array(values, field.type).take(rows))
    return replace(images, rows=table)


def check_masks(images: Collected, where: str) -> None:
    """Raise InputError with the number of images without a mask and the names of the first."""
    rows = images.rows
    has_mask = np.zeros(rows.num_rows, bool)
    for name in ("mask", "mask_offset"):
        if name in rows.column_names:
            has_mask |= rows[name].is_valid().to_numpy()
    missing = np.flatnonzero(~has_mask)
    if len(missing):
        first = rows["source"].take(pa.array(missing[:NUM_NAMED])).to_pylist()
        more = ", ..." if len(missing) > NUM_NAMED else ""
        raise InputError(
            f"{len(missing)} of {rows.num_rows} images have no mask in {where}: "
            f"{', '.join(sorted(first))}{more}; add them, or give these images a uniform map with "
            "--missing-masks uniform"
        )
