"""Give each listed image the mask file of its name."""

import os
import unicodedata
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.image_names import has_image_suffix
from pipeline.sources.listing import PLAN_SCHEMA, Collected
from pipeline.sources.rows import Rows
from pipeline.storage.store import Store, printable

NUM_NAMED = 5
"""How many images without a mask a message names."""


def match_masks(images: Collected, store: Store) -> Collected:
    """Give each image the mask file (an image or `.npy`) of the same name up to its suffix.

    Sets `mask` and `mask_bytes`, null if there is none. InputError: no mask, or two for one name.
    """
    masks: dict[str, tuple[bytes, int]] = {}
    for name, size, _ in store.files():
        if size >= 0 and (name.endswith(".npy") or has_image_suffix(name)):
            stem = _stem(printable(name))
            if stem in masks:
                names = (os.fsdecode(masks[stem][0]), name)
                both = " and ".join(sorted(map(printable, names)))
                raise InputError(f"{store.url} has two masks of one name, {both}: remove one")
            masks[stem] = os.fsencode(name), size
    if not masks:
        raise InputError(f"no mask below {store.url}: images or .npy files are wanted")

    def matched(part: pa.Table) -> pa.Table:
        found = [masks.get(_stem(source), (None, None)) for source in part["source"].to_pylist()]
        for column, values in zip(("mask", "mask_bytes"), zip(*found, strict=True), strict=True):
            field = PLAN_SCHEMA.field(column)
            part = part.append_column(field, pa.array(values, field.type))
        return part

    return replace(images, rows=Rows(map(matched, images.rows)))


def _stem(name: str) -> str:
    """A name up to its suffix; macOS writes accents apart, others do not."""
    return unicodedata.normalize("NFC", os.path.splitext(name)[0])


def check_masks(images: Collected, where: str) -> None:
    """Raise InputError with the number of images without a mask and the names of the first."""
    num_missing, first = 0, list[str]()
    for part in images.rows:
        has_mask = np.zeros(part.num_rows, bool)
        for name in ("mask", "mask_offset"):
            if name in part.column_names:
                has_mask |= part[name].is_valid().to_numpy()
        missing = part["source"].filter(pa.array(~has_mask))
        num_missing += len(missing)
        first += missing.slice(0, NUM_NAMED - len(first)).to_pylist()
    if num_missing:
        more = ", ..." if num_missing > NUM_NAMED else ""
        raise InputError(
            f"{num_missing} of {images.rows.num_rows} images have no mask in {where}: "
            f"{', '.join(sorted(first))}{more}; add them, or give these images a uniform map with "
            "--missing-masks uniform"
        )
