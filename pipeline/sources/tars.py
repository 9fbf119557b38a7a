"""Existing WebDataset tars: members that belong together have one name up to its first dot."""

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

import pyarrow as pa

from pipeline.core.errors import InputError
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.sources.listing import DataPlace, Listing, RowBuffer
from pipeline.storage.storage import Store, printable

LABEL_MEMBER, JSON_MEMBER, JSON_FIELD = "cls", "json", "label"


@dataclass(frozen=True)
class _Wanted:
    """Which members are what; empty: found by its name, and for masks: none."""

    labels: bool
    image: str
    label: str
    mask: str


@dataclass
class _Sample:
    """The members of one sample, as far as they have been seen."""

    key: str
    images: list[tarfile.TarInfo] = field(default_factory=list)
    mask: tarfile.TarInfo | None = None
    label: str | None = None
    num_ignored: int = 0


def list_tars(
    store: Store,
    names: list[str],
    *,
    labels: bool,
    image_suffix: str = "",
    label_column: str = "",
    mask_suffix: str = "",
) -> Listing:
    """List the images in tars, in the tars' order.

    An image is known by its suffix, as a file is. Its label is what the member `.cls` says, else
    the field `label` of the member `.json`; its source is `<tar>/<member>`.

    Args:
        store: where the tars lie.
        names: of the tars, in order.
        labels: whether labels are wanted.
        image_suffix: of the members that are the images, such as `jpg`; needed where samples have
            several.
        label_column: suffix of the members that are labels, or field of the JSON members.
        mask_suffix: of the members that are masks, such as `mask.png`.

    Raises:
        InputError: while batches are read: no tar, damaged, compressed, no image in it, or several
            images in a sample.
    """
    wanted = _Wanted(labels, image_suffix.lstrip("."), label_column, mask_suffix.lstrip("."))
    listing = Listing(
        place=DataPlace(store=store, masks=store),
        batches=iter(()),
        keeps_order=True,
        counts_as_numbers=True,
        unlabelled="has no label" if labels else "",
        holds_masks=bool(mask_suffix),
    )
    listing.batches = _batches(listing, store, names, wanted)
    return listing


def _batches(
    listing: Listing, store: Store, names: list[str], wanted: _Wanted
) -> Iterator[pa.RecordBatch]:
    rows = RowBuffer()
    for name in names:
        found = False
        for sample in _samples(store, name, wanted):
            listing.num_ignored += sample.num_ignored
            if not sample.images:
                continue
            found = True
            if len(sample.images) > 1:
                both = " and ".join(member.name for member in sample.images[:2])
                raise InputError(
                    f"{store.where(name)} has {both} in one sample: say which is the image with "
                    f"--image-column {sample.images[0].name.rpartition('.')[2]}"
                )
            _add(rows, name, sample)
            if rows.is_full:
                yield rows.take()
        if not found:
            what = f"member with the suffix .{wanted.image}" if wanted.image else "image"
            raise InputError(f"no {what} in {store.where(name)}")
    yield rows.take()


def _add(rows: RowBuffer, name: str, sample: _Sample) -> None:
    image, mask = sample.images[0], sample.mask
    rows.add(
        f"{printable(name)}/{printable(image.name)}",
        image.size,
        uri=os.fsencode(name),
        offset=image.offset_data,
        length=image.size,
        label=sample.label,
        mask_offset=None if mask is None else mask.offset_data,
        mask_bytes=None if mask is None else mask.size,
    )


def _samples(store: Store, name: str, wanted: _Wanted) -> Iterator[_Sample]:
    """The samples of one tar."""
    current: _Sample | None = None
    try:
        with store.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                if not member.isreg():
                    continue
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}{slash}{stem}"
                if current is None or current.key != key:
                    if current is not None:
                        yield current
                    current = _Sample(key)
                _take(current, member, suffix, wanted, file)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {store.where(name)}") from error
    except tarfile.TarError as error:
        raise InputError(
            f"{store.where(name)} is no tar that can be read ({error}); a compressed one has to be "
            "unpacked first: its members cannot be reached one by one"
        ) from error
    if current is not None:
        yield current


def _take(
    sample: _Sample, member: tarfile.TarInfo, suffix: str, wanted: _Wanted, file: IO[bytes]
) -> None:
    """Note what a member is of its sample."""
    if wanted.mask and suffix == wanted.mask:
        sample.mask = member
    elif suffix == wanted.image if wanted.image else f".{suffix.lower()}" in IMAGE_SUFFIXES:
        sample.images.append(member)
    elif wanted.labels and suffix == (wanted.label or LABEL_MEMBER):
        sample.label = _content(file, member).decode("utf-8", "backslashreplace").strip() or None
    elif wanted.labels and suffix == JSON_MEMBER and sample.label is None:
        sample.label = _json_label(_content(file, member), wanted.label or JSON_FIELD)
    else:
        sample.num_ignored += suffix not in (LABEL_MEMBER, JSON_MEMBER)


def _content(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)  # the tar's reader seeks before each header
    return file.read(member.size)


def _json_label(data: bytes, name: str) -> str | None:
    try:
        value = json.loads(data)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return None if value is None else str(value)
