"""Score saliency sources on a folder of images with a folder of masks."""

import hashlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np

from pipeline.core.errors import ImageError, InputError
from pipeline.core.image_names import IMAGE_SUFFIXES
from pipeline.core.progress import track
from pipeline.images.source_image import decode_source
from pipeline.saliency.external import External
from pipeline.saliency.interface import Image, Map, SaliencySource, same_aspect
from pipeline.saliency.quality import MapQuality, Mask, Quality, map_quality, summarise

CHUNK_IMAGES = 16
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Half = Literal["all", "choose", "report"]


class ScoredImage(NamedTuple):
    """The files of an image, of its mask, and of a map made elsewhere, for `External`.

    The name is the path relative to the folder of images, with forward slashes.
    """

    name: str
    image: Path
    mask: Path
    map: Path | None = None


class SourceScore(NamedTuple):
    """The quality of a source's maps, and by name of each image that could be read.

    `ms` is the wall clock of an image in one process, in milliseconds: the median over chunks.
    """

    quality: Quality
    ms: float
    by_image: Mapping[str, MapQuality]


def pair_up(
    images: Path, masks: Path, *, half: Half = "all", maps: Path | None = None
) -> tuple[list[ScoredImage], list[str]]:
    """Find the mask of each image: the same relative path up to the suffix.

    `maps` is a folder of maps that another program made, named like the masks. Parameters are
    chosen on one half of the images and reported on the other (`half_of`).

    Returns:
        The images that have a mask, sorted by name, and the names of those that have none.

    Raises:
        InputError: not a folder, no pair, or two masks of one name.
    """
    mask_of = _by_stem(masks)
    map_of = {} if maps is None else _by_stem(maps)
    paired, without_mask = [], []
    for path in _files(images, IMAGE_SUFFIXES):
        relative = path.relative_to(images)
        name, stem = relative.as_posix(), relative.with_suffix("").as_posix()
        if half not in ("all", half_of(name)):
            continue
        if stem in mask_of:
            paired.append(ScoredImage(name, path, mask_of[stem], map_of.get(stem)))
        else:
            without_mask.append(name)
    if not paired:
        raise InputError(
            f"no image in {images} (half: {half}) has a mask in {masks}: wanted is a mask of the "
            "same relative path up to the suffix"
        )
    return paired, without_mask


def half_of(name: str) -> Literal["choose", "report"]:
    """The half that an image of this relative name belongs to."""
    odd = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[0] & 1
    return "report" if odd else "choose"


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _files(folder, IMAGE_SUFFIXES | {".npy"}):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise InputError(
                f"{folder} has two files of one name, {found[stem].name} and "
                f"{path.name}: remove one"
            )
        found[stem] = path
    return found


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in suffixes)


def read_pair(pair: ScoredImage) -> tuple[Image, Mask]:
    """Read an image, uint8 [H, W, 3], and its mask, bool [h, w], upright.

    A mask is True above half of the range, or above 0 where it holds 0 and 1 only.

    Raises:
        ImageError: one of them cannot be decoded; says which.
        InputError: the mask has another aspect than the image, or a file cannot be read.
    """
    pixels = _decode(pair.image, "the image")
    levels = cv2.cvtColor(_decode(pair.mask, "its mask"), cv2.COLOR_RGB2GRAY)
    (height, width), (rows, columns) = pixels.shape[:2], levels.shape
    if not same_aspect((rows, columns), (height, width)):
        raise InputError(
            f"the mask {pair.mask} is {columns} x {rows}, of another aspect than its image, "
            f"{width} x {height}: give it the image's"
        )
    threshold = 0 if levels.max() <= 1 else 127
    return pixels, np.asarray(levels > threshold)


def _decode(path: Path, what: str) -> Image:
    data = _read_bytes(path)
    try:
        return decode_source(data).pixels
    except ImageError as error:
        raise ImageError(f"{what} cannot be used: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def maps_of(source: SaliencySource, images: Sequence[tuple[ScoredImage, Image]]) -> list[Map]:
    """A source's maps of upright images; `External` is given their files.

    Raises:
        InputError: a map that cannot be read or used; names it.
    """
    if not isinstance(source, External):
        return source([image for _, image in images])
    maps = []
    for pair, image in images:
        data = None if pair.map is None else _read_bytes(pair.map)
        try:
            maps.append(source.map_of(pair.name, image, data))
        except ImageError as error:
            raise InputError(
                f"the map of {pair.name}, {pair.map}, cannot be used: {error}"
            ) from error
    return maps


class _ScoredChunk(NamedTuple):
    qualities: dict[str, dict[str, MapQuality]]
    ms: dict[str, float]
    unreadable: dict[str, str]


def score_sources(
    sources: Mapping[str, SaliencySource], pairs: Sequence[ScoredImage], processes: int = 1
) -> tuple[dict[str, SourceScore], dict[str, str]]:
    """Score sources in so many processes, each with one thread; only the time depends on that.

    Returns:
        Each source's score, and by name the reasons why images could not be read.

    Raises:
        InputError: a mask of another aspect, or a file that cannot be read; names it.
    """
    chunks = [pairs[at : at + CHUNK_IMAGES] for at in range(0, len(pairs), CHUNK_IMAGES)]
    work = partial(_score_chunk, dict(sources))
    if processes == 1:
        done = _tracked(map(work, chunks), chunks)
    else:
        with _one_thread_each(), multiprocessing.get_context("spawn").Pool(processes) as pool:
            done = _tracked(pool.imap(work, chunks), chunks)
    unreadable = {name: reason for part in done for name, reason in part.unreadable.items()}
    scores = {}
    for key in sources:
        by_image = {name: q for part in done for name, q in part.qualities[key].items()}
        ms = statistics.median([part.ms[key] for part in done if part.qualities[key]] or [0.0])
        scores[key] = SourceScore(summarise(list(by_image.values())), ms, by_image)
    return scores, unreadable


def _tracked(
    results: Iterable[_ScoredChunk], chunks: Sequence[Sequence[ScoredImage]]
) -> list[_ScoredChunk]:
    """The chunks' results in order; shows how many images are done."""
    both, total = zip(chunks, results, strict=True), sum(map(len, chunks))
    shown = track(both, "scoring", total, "images", size=lambda pair: len(pair[0]))
    return [result for _, result in shown]


def _score_chunk(
    sources: Mapping[str, SaliencySource], pairs: Sequence[ScoredImage]
) -> _ScoredChunk:
    cv2.setNumThreads(1)
    read: list[tuple[ScoredImage, Image, Mask]] = []
    chunk = _ScoredChunk({}, {}, {})
    for pair in pairs:
        try:
            read.append((pair, *read_pair(pair)))
        except ImageError as error:
            chunk.unreadable[pair.name] = str(error)
    for key, source in sources.items():
        start = time.perf_counter()
        maps = maps_of(source, [(pair, image) for pair, image, _ in read])
        chunk.ms[key] = (time.perf_counter() - start) / max(1, len(read)) * 1000
        chunk.qualities[key] = {
            pair.name: map_quality(saliency, mask)
            for saliency, (pair, _, mask) in zip(maps, read, strict=True)
        }
    return chunk


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Limit the processes that start inside to one thread each."""
    before = {name: os.environ.pop(name, None) for name in THREAD_LIMITS}
    os.environ.update(dict.fromkeys(THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name in THREAD_LIMITS:
            del os.environ[name]
        os.environ.update({name: value for name, value in before.items() if value is not None})
