"""Where images come from: a folder of any depth becomes a list of sources with labels."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.image_names import (
    HEAD_BYTES,
    IMAGE_SUFFIXES,
    has_image_signature,
    has_image_suffix,
    may_be_image,
)


@dataclass(frozen=True)
class SourceImage:
    """One image before it is read.

    Attributes:
        source: path relative to the data's root, with forward slashes; bytes of a file name
            that are not UTF-8 are written as backslash escapes.
        path: the same as the file system has it (bytes), to open it.
        num_bytes: size of the file.
        label: index into the class names; None where there are no labels.
    """

    source: str
    path: bytes
    num_bytes: int
    label: int | None


@dataclass(frozen=True)
class Listing:
    """What a data folder holds.

    Attributes:
        images: in no order that matters.
        class_names: sorted; empty where there are no labels.
        num_ignored: files that are no images by name.
        unlabelled_because: why there are no labels; empty where there are, or none were wanted.
    """

    images: tuple[SourceImage, ...]
    class_names: tuple[str, ...]
    num_ignored: int
    unlabelled_because: str


def list_folder(root: Path, labels: bool) -> Listing:
    """List the images below a folder, at any depth, following links.

    An image is known by its suffix; a file without one, by its first bytes. The top-level folder
    that an image lies in is its class, if every image lies in one. A folder that links make
    reachable in several ways is read once: by its own path, if that is below the root, else by
    the first link in order of names.

    Args:
        root: the folder.
        labels: whether class folders become labels.

    Raises:
        InputError: no such folder, no image in it, something in it cannot be listed.
    """
    if not root.exists():
        raise InputError(f"no such folder: {root}")
    if not root.is_dir():
        raise InputError(f"{root} is a file: a folder of images is wanted")
    found, num_ignored = _walk(os.fsencode(root))
    if not found:
        raise InputError(
            f"no image below {root} ({num_ignored} other files): images are known by their "
            f"suffix ({', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    names = {path: _printable(path) for path, _ in found}
    outside = sorted(name for name in names.values() if "/" not in name)
    why = ""
    if labels and outside:
        why = f"{outside[0]} lies in no class folder"
    has_labels = labels and not outside
    tops = {path: name.split("/", 1)[0] for path, name in names.items()} if has_labels else {}
    class_names = tuple(sorted(set(tops.values())))
    numbers = {name: number for number, name in enumerate(class_names)}
    images = tuple(
        SourceImage(names[path], path, size, numbers[tops[path]] if has_labels else None)
        for path, size in found
    )
    return Listing(images, class_names, num_ignored, why)


def _walk(root: bytes) -> tuple[list[tuple[bytes, int]], int]:
    """All images (path relative to the root, size) and the number of other files."""
    found: list[tuple[bytes, int]] = []
    num_ignored = 0
    seen: set[tuple[int, int]] = set()
    folders, links = [b""], list[bytes]()
    while folders or links:
        if not folders:  # linked folders last, so that a folder's own path comes first
            links.sort(reverse=True)
            folders.append(links.pop())
        folder = folders.pop()
        identity = _stat(os.path.join(root, folder))
        if (identity.st_dev, identity.st_ino) in seen:
            continue
        seen.add((identity.st_dev, identity.st_ino))
        for entry in _entries(os.path.join(root, folder)):
            path = os.path.join(folder, entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_dir():
                links.append(path)
            elif not has_image_suffix(entry.name) and not _begins_as_image(entry):
                num_ignored += 1
            else:
                about = _stat(entry.path)
                if stat.S_ISREG(about.st_mode):
                    found.append((path, about.st_size))
                else:  # a pipe or a device would block for ever
                    num_ignored += 1
    return found, num_ignored


def _begins_as_image(entry: os.DirEntry[bytes]) -> bool:
    """Whether a file without a suffix is an image by its first bytes."""
    if not may_be_image(entry.name) or not entry.is_file():
        return False
    try:
        with open(entry.path, "rb") as file:
            return has_image_signature(file.read(HEAD_BYTES))
    except OSError as error:
        raise InputError(f"cannot read {_printable(entry.path)}: {error.strerror}") from error


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"cannot list {_printable(folder)}: {error.strerror}") from error


def _stat(path: bytes) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise InputError(
            f"cannot read {_printable(path)}: {error.strerror} (a link to nowhere? remove it)"
        ) from error


def _printable(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
