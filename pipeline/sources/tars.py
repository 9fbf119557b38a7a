"""List the images in WebDataset tars, whose members the webdataset library itself groups."""

import json
import os
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import IO, Any

from pipeline.core.errors import InputError
from pipeline.core.image_names import IMAGE_SUFFIXES, kind_of
from pipeline.sources.listing import DataStore, Ignored, Listing, Row, SourceOptions
from pipeline.storage.store import Store, printable, reason

LABEL_MEMBER, JSON_MEMBER, JSON_FIELD = "cls", "json", "label"
Members = dict[str, tarfile.TarInfo]
"""The members of a sample by their suffix: all that follows the first dot, in lower case."""


def list_tars(store: Store, names: list[str], options: SourceOptions) -> Listing:
    """List the images in tars, in the tars' order.

    Members that stand together and share their name up to its first dot are a sample. Members whose
    name begins with a dot, links and the like belong to none. An image is known by its suffix or,
    where a sample has no such member (x.left.jpg), by the last part of the suffix. Its label is the
    member `.cls`, else the field `label` of the member `.json`. Its source is `<tar>/<member>`.

    `image_column` may be a pattern (`*.jpg`). Then every member whose suffix matches is an image,
    and its label that of the same name up to the last dot, else that of the sample.
    """
    return Listing(
        data=DataStore(store=store, masks=store),
        rows=_rows(store, names, options),
        keeps_order=True,
        counts_as_numbers=True,
        unlabelled="has no label" if options.labels else "",
    )


def _rows(store: Store, names: list[str], options: SourceOptions) -> Iterator[Row | Ignored]:
    for name in names:
        found = False
        suffixes: set[str] = set()
        try:
            with store.open(name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                about = store.find(name)
                reader = _TarReader(store.where(name), name, file, options, suffixes)
                for row in reader.rows(tar):
                    if not isinstance(row, Ignored):
                        found, row["version"] = True, about and about.version
                    yield row
        except FileNotFoundError as error:
            raise InputError(f"no such file: {store.where(name)}") from error
        except InputError:  # a ValueError, too
            raise
        except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
            raise InputError(
                f"{store.where(name)} is no tar that can be read ({reason(error)}); a compressed "
                "one has to be unpacked first: its members cannot be reached one by one"
            ) from error
        if not found:
            wanted = options.image_column.lstrip(".")
            what = f"member with the suffix .{wanted}" if wanted else "image"
            there = ", ".join(f".{suffix}" for suffix in sorted(suffixes)[:20]) or "none"
            raise InputError(f"no {what} in {store.where(name)}: its members' suffixes are {there}")


class _TarReader:
    """Makes rows of the members of one tar."""

    def __init__(
        self, where: str, name: str, file: IO[bytes], options: SourceOptions, suffixes: set[str]
    ) -> None:
        self._where, self._name, self._file = where, name, file
        self._options, self._suffixes = options, suffixes
        self._image = options.image_column.lstrip(".").lower()
        self._mask = options.mask_column.lstrip(".").lower()
        self._label = (options.label_column or LABEL_MEMBER).lstrip(".").lower()
        self._ignored: list[Ignored] = []

    def rows(self, tar: tarfile.TarFile) -> Iterator[Row | Ignored]:
        from webdataset.tariterators import group_by_keys  # it imports torch

        seen: set[str] = set()
        samples = group_by_keys(self._members(tar))
        while True:
            try:
                sample = next(samples, None)
            except ValueError as error:  # of the library
                what = " ".join(str(error.args[0]).split())
                raise InputError(f"{self._where}: {what}: remove one") from error
            yield from self._ignored
            self._ignored.clear()
            if sample is None:
                return
            key = sample.pop("__key__")
            del sample["__url__"]
            if key in seen:
                some = next(iter(sample.values())).name
                raise InputError(
                    f"{self._where}: {some} does not stand beside the other members of its "
                    "sample, and would lose them: make the tar anew with its members sorted by "
                    "name (tar --sort=name)"
                )
            seen.add(key)
            yield from self._sample_rows(sample)

    def _members(self, tar: tarfile.TarFile) -> Iterator[dict[str, Any]]:
        from webdataset.tariterators import base_plus_ext

        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them in memory
            if member.isdir():
                continue
            if not member.isreg():
                self._ignored.append(Ignored("links and devices"))
            elif base_plus_ext(member.name)[0] is None:
                self._ignored.append(Ignored(kind_of(member.name)))
            else:
                yield {"fname": member.name, "data": member, "__url__": self._name}

    def _sample_rows(self, members: Members) -> Iterator[Row | Ignored]:
        """The row of each image of a sample, and each member that is ignored."""
        images: list[str] = []
        row: Row = {}
        labels: dict[str, str | None] = {}
        column = self._options.group_column
        if column and JSON_MEMBER in members:
            row["group"] = _json_label(self._content(members[JSON_MEMBER]), column)
        for suffix, member in members.items():
            self._suffixes.add(suffix)
            stem, _, last = suffix.rpartition(".")
            if self._mask and suffix == self._mask:
                row |= {"mask_offset": member.offset_data, "mask_bytes": member.size}
            elif self._is_image(suffix):
                images.append(suffix)
            elif self._options.labels and self._label in (suffix, last):
                text = self._content(member).decode("utf-8", "backslashreplace")
                labels[stem if last == self._label else ""] = text.strip() or None
            elif self._options.labels and suffix == JSON_MEMBER:
                field = self._options.label_column or JSON_FIELD
                labels.setdefault("", _json_label(self._content(member), field))
            elif suffix not in (LABEL_MEMBER, JSON_MEMBER):
                yield Ignored(f".{suffix}")
        plain = [suffix for suffix in images if "." not in suffix]
        if plain and not self._image:  # a.jpg is the image beside a.mask.png
            yield from (Ignored(f".{suffix}") for suffix in images if suffix not in plain)
            images = plain
        if len(images) > 1 and not any(mark in self._image for mark in "*?["):
            both = " and ".join(members[suffix].name for suffix in images[:2])
            last = images[0].rpartition(".")[2]
            raise InputError(
                f"{self._where} has {both} in one sample (names up to the first dot): say which is "
                f"the image with --image-column {images[0]}, or that each is one with "
                f"--image-column '*{last}'"
            )
        for suffix in images:
            image, stem = members[suffix], suffix.rpartition(".")[0]
            yield row | {
                "source": f"{printable(self._name)}/{printable(image.name)}",
                "num_bytes": image.size,
                "uri": os.fsencode(self._name),
                "offset": image.offset_data,
                "length": image.size,
                "label": labels.get(stem, labels.get("")),
            }

    def _is_image(self, suffix: str) -> bool:
        if self._image:
            return fnmatchcase(suffix, self._image)
        return f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES

    def _content(self, member: tarfile.TarInfo) -> bytes:
        self._file.seek(member.offset_data)  # `tarfile` seeks before each header
        return self._file.read(member.size)


def _json_label(data: bytes, name: str) -> str | None:
    try:
        value = json.loads(data)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return None if value is None else str(value)
