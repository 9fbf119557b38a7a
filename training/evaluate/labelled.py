"""Labelled images to evaluate on, whether they lie in shards or in class folders."""

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import DamagedSample, ImageError, InputError
from pipeline.images.codecs import decode_saliency, decode_stored
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import DATASET_FILE
from pipeline.shardset.shared_images import HashedImages, HashedShards, counted, shared_images
from pipeline.storage.storage import Location, is_url
from training.evaluate.folders import FolderImages


class LabelledImages(Protocol):
    """What an evaluation needs of its data; may be read by several threads.

    Attributes:
        class_names: a label is an index into them.
        digest: of what decides its content.
        content: tells the sha256 of every image.
        num_images: images in it.
        shard_sizes: images of each shard; of a folder: all of them.
        saliency_source: where its saliency maps come from; None where it has none.
    """

    class_names: tuple[str, ...]
    digest: str
    content: HashedImages
    num_images: int
    shard_sizes: tuple[int, ...]
    saliency_source: str | None

    @property
    def root(self) -> Location:
        """Where it lies."""

    def labels(self) -> NDArray[np.int64]:
        """Labels of all images, int64 [num_images]."""

    def image(self, number: int) -> NDArray[np.uint8]:
        """An image, RGB uint8 [H, W, 3]; raises InputError naming what cannot be decoded."""

    def saliency(self, number: int) -> NDArray[np.uint8]:
        """Its saliency, uint8 [P, P], where there is a source."""


class StoredImages:
    """The images of a shard set, labelled or not.

    Raises:
        InputError: the set is missing or damaged.
    """

    def __init__(self, root: Location, cache: CacheConfig | None = None) -> None:
        self.root = root
        info = load_dataset_info(root)
        check_shards(root, info)
        self._reader = ShardSetReader(root, info, cache)
        self.class_names = info.class_names
        self.digest = info.plan_digest
        self.content: HashedImages = HashedShards(root, info)
        self.num_images = self._reader.num_samples
        self.shard_sizes = self._reader.shard_sizes
        self.saliency_source: str | None = str(info.saliency.get("source"))

    def labels(self) -> NDArray[np.int64]:
        """Labels from the manifests alone; -1 where there are none."""
        return self._reader.labels()

    def image(self, number: int) -> NDArray[np.uint8]:
        """The stored image."""
        sample = self._reader.read(number)
        try:
            return decode_stored(sample.image)
        except ImageError as error:
            raise DamagedSample(
                f"sample {sample.key} in {sample.shard} is damaged ({error}): "
                "rerun the precompute job on the same sources and the shard is rebuilt"
            ) from error

    def saliency(self, number: int) -> NDArray[np.uint8]:
        """The stored map."""
        return decode_saliency(self._reader.read_saliency(number))


class ShardImages(StoredImages):
    """A labelled shard set.

    Raises:
        InputError: the set is missing, damaged or has no labels.
    """

    def __init__(self, root: Location, cache: CacheConfig | None = None) -> None:
        super().__init__(root, cache)
        if not self.class_names:
            raise InputError(
                f"labels asked for where there are none: {root} was made without labels (run "
                "jobs/precompute.py on class folders, without --no-labels)"
            )


def open_labelled(
    root: Location, cache: CacheConfig | None = None, *, labels: bool = True
) -> LabelledImages:
    """Open shards, or a folder of class folders; shards without labels where none are needed.

    Raises:
        InputError: neither; no labels; a damaged set.
    """
    shards = ShardImages if labels else StoredImages
    if is_url(root):
        return shards(root, cache)
    root = Path(root)
    is_shards = (root / DATASET_FILE).exists() or (root / "shards").is_dir() or not root.is_dir()
    return shards(root) if is_shards else FolderImages(root)


def labelled_pair(
    train_root: Location, val_root: Location, cache: CacheConfig | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Open two sets whose labels mean the same and that share no image.

    Raises:
        InputError: a set is missing, damaged or without labels; other class names; images that
            are in both sets (by the sha256 of their files).
    """
    train, val = open_pair(train_root, val_root, cache)
    shared = shared_images(train.content, val.content)
    if shared:
        raise InputError(
            f"{val_root} and {train_root} share {counted(shared)}: such an image would find "
            "itself; take the shared images out of one of them"
        )
    return train, val


def open_pair(
    train_root: Location, val_root: Location, cache: CacheConfig | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """As `labelled_pair`, for sets that were checked before: shared images are not looked for."""
    train, val = open_labelled(train_root, cache), open_labelled(val_root, cache)
    if train.class_names != val.class_names:
        raise InputError(
            f"the classes of {train_root} and {val_root} differ ({first_difference(train, val)}): "
            "a label would mean two things"
        )
    return train, val


def first_difference(train: LabelledImages, val: LabelledImages) -> str:
    """Which class name differs first, for a message."""
    if len(train.class_names) != len(val.class_names):
        return f"{len(train.class_names)} and {len(val.class_names)} classes"
    pairs = zip(train.class_names, val.class_names, strict=True)
    return next(f"{a!r} and {b!r}" for a, b in pairs if a != b)


def check_classes(train: LabelledImages, val: LabelledImages) -> None:
    """Raise InputError for a class with fewer than two training or no validation images.

    Of one image nothing can be held out, and a class without validation images has no accuracy.
    """
    for part, images, least in (("training", train, 2), ("validation", val, 1)):
        counts = np.bincount(images.labels(), minlength=len(images.class_names))
        if (counts < least).any():
            worst = int(counts.argmin())
            raise InputError(
                f"class {images.class_names[worst]!r} has {counts[worst]} {part} images in "
                f"{images.root}: wanted at least {least}"
            )
