"""Scores saliency sources on a folder of images with a folder of masks."""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import cv2

from pipeline.core.errors import ImageError, InputError
from pipeline.core.progress import track
from pipeline.saliency.interface import Image, Map, SaliencySource
from pipeline.saliency.quality import MapQuality, Mask, Quality, map_quality, summarise
from pipeline.saliency.score_pairs import ScoredImage, read_bytes, read_pair

CHUNK_IMAGES = 16


@runtime_checkable
class TakesMaps(Protocol):
    """A source that is given each image's map, which another program made, as a file's bytes."""

    def map_of(self, source: str, image: Image, mask: bytes | None, /) -> Map:
        """The map of the image of that name."""
        ...


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
        done = _tracked(map(work, chunks), chunks)
    else:
        with _one_thread_each(), multiprocessing.get_context("spawn").Pool(processes) as pool:
            done = _tracked(pool.imap(work, chunks), chunks)
    unreadable = {name: reason for part in done for name, reason in part.unreadable.items()}
    scores = {}
    for key in sources:
        by_image = {name: q for part in done for name, q in part.qualities[key].items()}
        ms = statistics.median([part.ms[key] for part in done if part.qualities[key]] or [0.0])
        scores[key] = SourceScore(summarise(list(by_image.values())), ms, by_image, unreadable)
    return scores


def _tracked(
    results: Iterable["_ScoredChunk"], chunks: Sequence[Sequence[ScoredImage]]
) -> list["_ScoredChunk"]:
    """The chunks' results in their order; shows how many images are through."""
    both, total = zip(chunks, results, strict=True), sum(map(len, chunks))
    shown = track(both, "scoring", total, "images", size=lambda pair: len(pair[0]))
    return [result for _, result in shown]


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
    upright = [(pair, read[pair.name][0]) for pair in pairs if pair.name in read]
    qualities, ms = {}, {}
    for key, source in sources.items():
        start = time.perf_counter()
        maps = maps_of(source, upright)
        ms[key] = (time.perf_counter() - start) / max(1, len(upright)) * 1000
        qualities[key] = {
            pair.name: map_quality(saliency, read[pair.name][1])
            for saliency, (pair, _) in zip(maps, upright, strict=True)
        }
    return _ScoredChunk(qualities, ms, unreadable)


def maps_of(source: SaliencySource, images: Sequence[tuple[ScoredImage, Image]]) -> list[Map]:
    """A source's maps of upright images, also of a source that is given them.

    Raises:
        InputError: a map that cannot be read or used; names it.
    """
    if not isinstance(source, TakesMaps):
        return source([image for _, image in images])
    maps = []
    for pair, image in images:
        data = None if pair.map is None else read_bytes(pair.map)
        try:
            maps.append(source.map_of(pair.name, image, data))
        except ImageError as error:
            raise InputError(f"the map of {pair.name}, {pair.map}, cannot be used: {error}") from (
                error
            )
    return maps


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
