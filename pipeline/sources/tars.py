"""List the images in WebDataset tars: members of a sample share their name up to the first dot."""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import IO

from pipeline.core.errors import InputError
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.sources.listing import DataStore, Listing, Row, SourceOptions
from pipeline.storage.store import Store, printable

LABEL_MEMBER, JSON_MEMBER, JSON_FIELD = "cls", "json", "label"


def list_tars(store: Store, names: list[str], options: SourceOptions) -> Listing:
    """List the images in tars, in the tars' order.

    An image is known by its suffix, as a file is. Its label is the member `.cls`, else the field
    `label` of the member `.json`. Its source is `<tar>/<member>`.
    """
    return Listing(
        data=DataStore(store=store, masks=store),
        rows=_rows(store, names, options),
        keeps_order=True,
        counts_as_numbers=True,
        unlabelled="has no label" if options.labels else "",
    )


def _rows(store: Store, names: list[str], options: SourceOptions) -> Iterator[Row | None]:
    suffix = options.image_column.lstrip(".")
    for name in names:
        found = False
        try:
            with store.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                for _, members in groupby(_files(tar), key=_sample):
                    for row in _sample_rows(store, name, members, file, options):
                        found |= row is not None
                        yield row
        except FileNotFoundError as error:
            raise InputError(f"no such file: {store.where(name)}") from error
        except tarfile.TarError as error:
            raise InputError(
                f"{store.where(name)} is no tar that can be read ({error}); a compressed one has "
                "to be unpacked first: its members cannot be reached one by one"
            ) from error
        if not found:
            what = f"member with the suffix .{suffix}" if suffix else "image"
            raise InputError(f"no {what} in {store.where(name)}")


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them in memory
        if member.isreg():
            yield member


def _sample(member: tarfile.TarInfo) -> str:
    folder, slash, base = member.name.rpartition("/")
    return f"{folder}{slash}{base.partition('.')[0]}"


def _sample_rows(
    store: Store,
    name: str,
    members: Iterable[tarfile.TarInfo],
    file: IO[bytes],
    options: SourceOptions,
) -> Iterator[Row | None]:
    """The row of a sample, if it has an image, and None for each member that is ignored."""
    image_suffix, mask_suffix = options.image_column.lstrip("."), options.mask_column.lstrip(".")
    images: list[tarfile.TarInfo] = []
    row: Row = {}
    for member in members:
        suffix = member.name.rpartition("/")[2].partition(".")[2]
        if mask_suffix and suffix == mask_suffix:
            row |= {"mask_offset": member.offset_data, "mask_bytes": member.size}
        elif suffix == image_suffix if image_suffix else f".{suffix.lower()}" in IMAGE_SUFFIXES:
            images.append(member)
        elif options.labels and suffix == (options.label_column or LABEL_MEMBER):
            text = _content(file, member).decode("utf-8", "backslashreplace")
            row["label"] = text.strip() or None
        elif options.labels and suffix == JSON_MEMBER and row.get("label") is None:
            row["label"] = _json_label(_content(file, member), options.label_column or JSON_FIELD)
        elif suffix not in (LABEL_MEMBER, JSON_MEMBER):
            yield None
    if len(images) > 1:
        both = " and ".join(member.name for member in images[:2])
        raise InputError(
            f"{store.where(name)} has {both} in one sample: say which is the image with "
            f"--image-column {images[0].name.rpartition('.')[2]}"
        )
    for image in images:
        yield row | {
            "source": f"{printable(name)}/{printable(image.name)}",
            "num_bytes": image.size,
            "uri": os.fsencode(name),
            "offset": image.offset_data,
            "length": image.size,
        }


def _content(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)  # `tarfile` seeks before each header
    return file.read(member.size)


def _json_label(data: bytes, name: str) -> str | None:
    try:
        value = json.loads(data)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return None if value is None else str(value)
