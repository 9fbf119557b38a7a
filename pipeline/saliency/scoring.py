"""Scores saliency sources on a folder of images with a folder of masks."""

import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np

from pipeline.codecs import decode_source
from pipeline.errors import ImageError, InputError
from pipeline.saliency.interface import Image, Map, SaliencySource
from pipeline.saliency.quality import MapQuality, Mask, Quality, map_quality, summarise
from pipeline.sources import IMAGE_SUFFIXES

CHUNK_IMAGES = 16
ASPECT_SLACK = 1.0
"""How many of a mask's pixels its sides may be off the image's aspect: rounding."""

Half = Literal["all", "choose", "report"]


@runtime_checkable
class TakesMaps(Protocol):
    """A source that is given each image's map, which another program made, as a file's bytes."""

    def map_of(self, source: str, image: Image, mask: bytes | None, /) -> Map:
        """The map of the image of that name."""
        ...


@dataclass(frozen=True)
class ScoredImage:
    """An image that has a mask.

    Attributes:
        name: path relative to the folder of images, with forward slashes.
        image: its file.
        mask: its mask's file.
        map: its map, made elsewhere, for sources that take one; None where there is none.
    """

    name: str
    image: Path
    mask: Path
    map: Path | None = None


@dataclass(frozen=True)
class Pairs:
    """What two folders have in common.

    Attributes:
        paired: sorted by name.
        without_mask: names of images that have no mask.
    """

    paired: tuple[ScoredImage, ...]
    without_mask: tuple[str, ...]


@dataclass(frozen=True)
class SourceScore:
    """What became of one source.

    Attributes:
        quality: means over the images.
        ms: milliseconds of wall clock an image in one process: the median over batches.
        by_image: the quality of each image that could be read, by name.
        unreadable: reasons by name.
    """

    quality: Quality
    ms: float
    by_image: Mapping[str, MapQuality]
    unreadable: Mapping[str, str]


def pair_up(images: Path, masks: Path, *, half: Half = "all", maps: Path | None = None) -> Pairs:
    """Find the mask of each image: the same relative path up to the suffix.

    Args:
        images: folder, of any depth.
        masks: folder.
        half: which images: parameters are chosen on one half and reported on the other. The half
            of an image is decided by its name alone.
        maps: folder of maps that another program made, named like the masks.

    Raises:
        InputError: not a folder, no pair, or two masks of one name.
    """
    mask_of = _by_stem(masks)
    map_of = {} if maps is None else _by_stem(maps)
    paired, without_mask = [], []
    for path in _files(images):
        name = path.relative_to(images)
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if half not in ("all", half_of(name.as_posix())):
            continue
        stem = name.with_suffix("").as_posix()
        if stem in mask_of:
            pair = ScoredImage(name.as_posix(), path, mask_of[stem], map_of.get(stem))
            paired.append(pair)
        else:
            without_mask.append(name.as_posix())
    if not paired:
        raise InputError(
            f"no image in {images} (half: {half}) has a mask in {masks}: wanted is a mask of the "
            "same relative path up to the suffix"
        )
    return Pairs(tuple(paired), tuple(without_mask))


def half_of(name: str) -> Literal["choose", "report"]:
    """The half that an image of this relative name belongs to."""
    odd = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[0] & 1
    return "report" if odd else "choose"


def read_pair(pair: ScoredImage) -> tuple[Image, Mask]:
    """The pixels of an image and of its mask, upright.

    Returns:
        uint8 [H, W, 3] and bool [h, w]: above half of the range, or above 0 in a mask of 0 and 1.

    Raises:
        ImageError: one of them cannot be decoded; says which.
        InputError: the mask has another aspect than the image, or a file cannot be read.
    """
    pixels = _decode(pair.image, "the image")
    levels = cv2.cvtColor(_decode(pair.mask, "its mask"), cv2.COLOR_RGB2GRAY)
    (height, width), (rows, columns) = pixels.shape[:2], levels.shape
    if (
        abs(columns - rows * width / height) > ASPECT_SLACK
        and abs(rows - columns * height / width) > ASPECT_SLACK
    ):
        raise InputError(
            f"the mask {pair.mask} is {columns} x {rows}, of another aspect than its image, "
            f"{width} x {height}: give it the image's"
        )
    threshold = 0 if levels.max() <= 1 else 127
    return pixels, np.asarray(levels > threshold)


def score_sources(
    sources: Mapping[str, SaliencySource], pairs: Sequence[ScoredImage], processes: int = 1
) -> dict[str, SourceScore]:
    """Score sources; the result does not depend on the number of processes, but for the time.

    Args:
        sources: by the name under which they are reported.
        pairs: images with masks.
        processes: how many work at once; each computes with one thread.

    Raises:
        InputError: a mask of another aspect, or a file that cannot be read; names it.
    """
    chunks = [pairs[at : at + CHUNK_IMAGES] for at in range(0, len(pairs), CHUNK_IMAGES)]
    work = partial(_score_chunk, dict(sources))
    if processes == 1:
        done = [work(chunk) for chunk in chunks]
    else:
        with _one_thread_each(), multiprocessing.get_context("spawn").Pool(processes) as pool:
            done = pool.map(work, chunks, chunksize=1)
    unreadable = {name: reason for part in done for name, reason in part.unreadable.items()}
    scores = {}
    for key in sources:
        by_image = {name: q for part in done for name, q in part.qualities[key].items()}
        ms = statistics.median(part.ms[key] for part in done)
        scores[key] = SourceScore(summarise(list(by_image.values())), ms, by_image, unreadable)
    return scores


@dataclass(frozen=True)
class _ScoredChunk:
    qualities: dict[str, dict[str, MapQuality]]
    ms: dict[str, float]
    unreadable: dict[str, str]


def _score_chunk(
    sources: Mapping[str, SaliencySource], pairs: Sequence[ScoredImage]
) -> _ScoredChunk:
    cv2.setNumThreads(1)
    read: dict[str, tuple[Image, Mask]] = {}
    unreadable = {}
    for pair in pairs:
        try:
            read[pair.name] = read_pair(pair)
        except ImageError as error:
            unreadable[pair.name] = str(error)
    qualities, ms = {}, {}
    for key, source in sources.items():
        start = time.perf_counter()
        maps = _maps(source, [pair for pair in pairs if pair.name in read], read)
        ms[key] = (time.perf_counter() - start) / max(1, len(read)) * 1000
        qualities[key] = {
            name: map_quality(saliency, mask)
            for saliency, (name, (_, mask)) in zip(maps, read.items(), strict=True)
        }
    return _ScoredChunk(qualities, ms, unreadable)


def _maps(
    source: SaliencySource, pairs: Sequence[ScoredImage], read: Mapping[str, tuple[Image, Mask]]
) -> list[Map]:
    if not isinstance(source, TakesMaps):
        return source([read[pair.name][0] for pair in pairs])
    return [
        source.map_of(pair.name, read[pair.name][0], pair.map.read_bytes() if pair.map else None)
        for pair in pairs
    ]


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread: they are the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder):
        if path.suffix.lower() not in IMAGE_SUFFIXES | {".npy"}:
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise InputError(
                f"{folder} has two files of one name, {found[stem].name} and {path.name}: remove one"
            )
        found[stem] = path
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _decode(path: Path, what: str) -> Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return decode_source(data).pixels
    except ImageError as error:
        raise ImageError(f"{what} cannot be used: {error}") from error
