"""Images to evaluate on, in shards or in class folders, and subsets of them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError, check
from pipeline.core.image_names import has_image_suffix
from pipeline.images.pixel_format import PLAIN, PixelFormat
from pipeline.images.source_image import DecodedSource, read_source
from pipeline.shardset.cache import CacheConfig
from pipeline.shardset.manifest import check_shards, load_dataset_info
from pipeline.shardset.reader import ShardSetReader
from pipeline.shardset.schema import DATASET_FILE
from pipeline.shardset.shared_images import (
    HashedImages,
    counted,
    hashed_files,
    hashed_shards,
    shared_images,
)
from pipeline.storage.storage import Location, is_url
from training.randomness.draws import sample_seeds

NUM_SHARDS = 16
"""Most shards of a `hashed_subset`: those of a bucket are fetched whole."""
SUBSET_DOMAIN = 0x43414C49
"""Keeps these hashes apart from others."""


def _no_map(number: int) -> NDArray[np.uint8]:
    raise AssertionError(f"there is no saliency map of image {number}")


@dataclass(eq=False, kw_only=True)
class LabelledImages:
    """A set of images with labels; several threads may read it.

    Attributes:
        root: where it lies.
        class_names: a label is an index into them.
        digest: of what decides its content.
        content: gives names and sha256 of the source files.
        shard_sizes: images of each shard; a folder counts as one shard.
        labels: gives the labels of all images, int64; -1 where there is none.
        image: gives an image by number, uint8 [H, W, C]; InputError names what is damaged.
        saliency: gives its saliency map, uint8 [P, P]; only where there is a source.
        saliency_source: where the maps come from; None where there are none.
        pixels: the format of its images; files in a folder are 8-bit of three channels.
    """

    root: Location
    class_names: tuple[str, ...]
    digest: str
    content: Callable[[], HashedImages]
    shard_sizes: tuple[int, ...]
    labels: Callable[[], NDArray[np.int64]]
    image: Callable[[int], NDArray[np.uint8]]
    saliency: Callable[[int], NDArray[np.uint8]] = _no_map
    saliency_source: str | None = None
    pixels: PixelFormat = PLAIN

    @property
    def num_images(self) -> int:
        """Images in it."""
        return sum(self.shard_sizes)

    @cached_property
    def sources(self) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
        """Names and sha256 of all source files; reads every file of a folder."""
        names, digests = zip(*self.content(), strict=True)
        # File names on Linux are bytes and need not be valid UTF-8; parquet's strings must be.
        readable = [os.fsencode(name).decode("utf-8", "replace") for name in names]
        return np.array(readable), np.array(digests)


def stored_images(root: Location, cache: CacheConfig | None = None) -> LabelledImages:
    """Open a shard set, labelled or not; InputError where it is missing or damaged."""
    info = load_dataset_info(root)
    check_shards(root, info)
    reader = ShardSetReader(root, info, cache)
    return LabelledImages(
        root=root,
        class_names=info.class_names,
        digest=info.plan_digest,
        content=partial(hashed_shards, root, info),
        shard_sizes=reader.shard_sizes,
        labels=reader.labels,
        image=reader.read_image,
        saliency=reader.read_map,
        saliency_source=str(info.saliency.get("source")),
        pixels=info.pixels,
    )


def folder_images(root: Path, labels: bool) -> LabelledImages:
    """Image files below class folders, sorted by name; the top-level folder is the class.

    The digest is of names and sizes, as a shard set's is. InputError where there are no images, or
    images that lie in no class folder; unless `labels` is false: then none has a label.
    """
    paths = (
        Path(folder, file)
        for folder, _, files in os.walk(root, followlinks=True)
        for file in files
        if has_image_suffix(file)
    )
    sizes = dict(sorted((p.relative_to(root).as_posix(), p.stat().st_size) for p in paths))
    wanted = "wanted shards (jobs/precompute.py makes them) or a folder of class folders"
    check(bool(sizes), f"no images below {root}: {wanted}")
    loose = next((name for name in sizes if "/" not in name), None)
    check(loose is None or not labels, f"{root} has no labels: {loose} lies in no class folder")
    names = tuple(sizes)
    classes, labels_M = np.unique([n.partition("/")[0] for n in names], return_inverse=True)
    if loose is not None:
        classes, labels_M = classes[:0], np.full(len(names), -1)
    told = "".join(f"{name}\0{size}\n" for name, size in sizes.items())

    def image(number: int) -> NDArray[np.uint8]:
        file = root / names[number]
        try:
            found = read_source(file.read_bytes())
        except ImageError as error:
            raise InputError(f"{file}: {error} (move it away)") from error
        if not isinstance(found, DecodedSource):
            raise InputError(
                f"{file} is not 8-bit of three channels, and a folder says nothing of its range: "
                "make shards of it, with jobs/precompute.py --range like SHARDS"
            )
        return found.pixels

    return LabelledImages(
        root=root,
        class_names=tuple(classes.tolist()),
        digest=hashlib.sha256(os.fsencode(told)).hexdigest(),
        content=partial(hashed_files, root, names),
        shard_sizes=(len(names),),
        labels=lambda: labels_M,
        image=image,
    )


def open_labelled(
    root: Location, cache: CacheConfig | None = None, *, labels: bool = True
) -> LabelledImages:
    """Open shards or a folder of class folders; unless `labels` is false they must have labels.

    Raises:
        InputError: neither; no labels; a damaged set.
    """
    folder = Path(root)
    is_shards = is_url(root) or (folder / DATASET_FILE).exists() or (folder / "shards").is_dir()
    if not is_shards and folder.is_dir():
        return folder_images(folder, labels)
    images = stored_images(root if is_url(root) else folder, cache)
    check(
        bool(images.class_names) or not labels,
        f"{root} has no labels: run jobs/precompute.py on class folders, without --no-labels",
    )
    return images


def labelled_pair(
    train_root: Location, val_root: Location, cache: CacheConfig | None = None
) -> tuple[LabelledImages, LabelledImages]:
    """Open two sets whose labels mean the same and that share no image.

    Raises:
        InputError: a set is missing, damaged or without labels; other class names; images that
            are in both sets (by the sha256 of their files).
    """
    train, val = open_labelled(train_root, cache), open_labelled(val_root, cache)
    if train.class_names != val.class_names:
        of_both = set(train.class_names) & set(val.class_names)
        which = [
            f"{name!r} is a class of {images.root} only"
            for images in (train, val)
            for name in images.class_names
            if name not in of_both
        ]
        first = which[0] if which else "they have another order"
        raise InputError(
            f"the classes of {train_root} and {val_root} differ ({first}): "
            "a label would mean two things"
        )
    shared = shared_images(train.content(), val.content())
    check(
        not shared,
        f"{val_root} and {train_root} share {counted(shared)}: such an image would find itself; "
        "take the shared images out of one of them",
    )
    return train, val


def check_classes(train: LabelledImages, val: LabelledImages) -> None:
    """Raise InputError for a class with fewer than two training or no validation images.

    Of one image nothing can be held out, and a class without validation images has no accuracy.
    """
    for part, images, least in (("training", train, 2), ("validation", val, 1)):
        counts = np.bincount(images.labels(), minlength=len(images.class_names))
        worst = int(counts.argmin())
        check(
            counts[worst] >= least,
            f"class {images.class_names[worst]!r} has {counts[worst]} {part} images in "
            f"{images.root}: wanted at least {least}",
        )


def evenly_chosen(num_images: int, at_most: int) -> NDArray[np.int64]:
    """Numbers of at most so many images, evenly spread over a set, rising."""
    spread = np.linspace(0, num_images - 1, min(at_most, num_images))
    return np.unique(spread.round().astype(np.int64))


def hashed_subset(shard_sizes: Sequence[int], num: int) -> NDArray[np.int64]:
    """Numbers of at most `num` images: those of smallest hash in the shards of smallest hash.

    The same in every run on the same shards. Rising, int64.
    """
    sizes = np.asarray(shard_sizes, dtype=np.int64)
    firsts = np.cumsum(sizes) - sizes
    shards = np.sort(_by_hash(np.arange(len(sizes)), 0)[:NUM_SHARDS])
    numbers = np.concatenate([firsts[s] + np.arange(sizes[s]) for s in shards])
    return np.sort(_by_hash(numbers, 1)[:num])


def _by_hash(numbers: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
    return numbers[np.argsort(sample_seeds(SUBSET_DOMAIN, epoch, numbers), kind="stable")]
