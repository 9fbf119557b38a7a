"""Labelled images in class folders: the top-level folder that an image lies in is its class."""

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.core.image_names import has_image_suffix
from pipeline.images.codecs import decode_source
from pipeline.shardset.shared_images import HashedFiles, HashedImages


class FolderImages:
    """Image files below class folders, in the order of their names.

    The digest is of names and sizes, as a shard set's is.

    Args:
        root: folder of class folders.

    Raises:
        InputError: no images, or images that lie in no class folder.
    """

    saliency_source: str | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        names, sizes = _listed(root)
        if not names:
            raise InputError(
                f"no images below {root}: wanted shards (jobs/precompute.py makes them) or a "
                "folder of class folders"
            )
        loose = next((name for name in names if "/" not in name), None)
        if loose is not None:
            raise InputError(
                f"labels asked for where there are none: {loose} in {root} lies in no class folder"
            )
        classes = [name.partition("/")[0] for name in names]
        self.class_names = tuple(sorted(set(classes)))
        self.names = tuple(names)
        self._files = [root / name for name in names]
        index = {name: label for label, name in enumerate(self.class_names)}
        self._labels = np.array([index[name] for name in classes], dtype=np.int64)
        self.num_images = len(names)
        self.shard_sizes: tuple[int, ...] = (len(names),)
        told = "".join(f"{name}\0{size}\n" for name, size in zip(names, sizes, strict=True))
        self.digest = hashlib.sha256(os.fsencode(told)).hexdigest()
        self.content: HashedImages = HashedFiles(root, names)

    def labels(self) -> NDArray[np.int64]:
        """Labels by the folders' names."""
        return self._labels

    def image(self, number: int) -> NDArray[np.uint8]:
        """Read and decode a file, in any format that precompute takes."""
        file = self._files[number]
        try:
            return decode_source(file.read_bytes()).pixels
        except ImageError as error:
            raise InputError(f"{file}: {error} (move it away)") from error

    def saliency(self, number: int) -> NDArray[np.uint8]:
        """There is none."""
        raise AssertionError("folders of images have no saliency")


def _listed(root: Path) -> tuple[list[str], list[int]]:
    """Names relative to the root, with slashes, and sizes in bytes; sorted by name."""
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            if has_image_suffix(file):
                path = Path(folder, file)
                found.append((path.relative_to(root).as_posix(), path.stat().st_size))
    found.sort()
    return [name for name, _ in found], [size for _, size in found]
