"""Make one shard from its sources: read, decode, saliency, tar, rejected list, manifest.

Bytes that cannot be decoded reject their image. A failure to read or to write fails the shard.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.core.errors import ImageError, InputError
from pipeline.images.codecs import encode_png, saliency_levels
from pipeline.images.pixel_format import FEW_LEVELS, RGB, PixelFormat, Values, check_channels
from pipeline.images.source_image import DecodedSource, read_source, shrink_source, store_values
from pipeline.images.value_range import SeenValues, look_at, merged, plain_images
from pipeline.precompute.plan import planned_rows
from pipeline.saliency.external import External
from pipeline.saliency.foreground import map_statistics
from pipeline.saliency.interface import Map, SaliencySource, three_channels
from pipeline.shardset.manifest import (
    SetError,
    ShardInfo,
    ShardRecord,
    read_manifest,
    read_record,
    read_rejected,
    write_manifest,
    write_rejected,
)
from pipeline.shardset.schema import shard_file, shard_name
from pipeline.shardset.writer import ShardWriter
from pipeline.sources.listing import DataStore
from pipeline.sources.reading import RawImage, read_images
from pipeline.storage.store import Store

BATCH_PIXELS = 32_000_000

Limit = Callable[[int], AbstractContextManager[object]]
"""Limits the time of a block that works on so many images."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that a process needs to make one shard, whatever the number of images.

    Attributes:
        saliency_size, max_pixels, resize_short: see `PrecomputeConfig`.
        pixels: the set's format; None where it is not known, or all images are 8-bit.
        generation: of its plan: 0, or the number of the append.
        first_shard: number of its plan's first shard.
        number: of the shard in its plan, from 0.
        rejected: sources that are known to kill their process, and how.
    """

    data: DataStore
    out: Store
    plan_digest: str
    saliency: SaliencySource
    saliency_size: int
    max_pixels: int
    resize_short: int | None = None
    pixels: PixelFormat | None = None
    generation: int = 0
    first_shard: int = 0
    number: int = 0
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the shard."""
        return shard_name(self.first_shard + self.number)


@dataclass(frozen=True)
class BuiltShard:
    """A shard that is whole; `rebuilt` is False if it was whole before.

    Of images that were made now, `num_clipped` have values outside of the range, and
    `num_few_levels` have few levels.
    """

    info: ShardInfo
    num_rejected: int
    rebuilt: bool
    num_clipped: int = 0
    num_few_levels: int = 0

    @property
    def num_sources(self) -> int:
        """Images of the plan."""
        return self.info.num_images + self.num_rejected


@dataclass(frozen=True)
class ScannedShard(BuiltShard):
    """A shard that waits for the set's format: its images were looked at, and not stored."""

    seen: Sequence[SeenValues] = ()


class _NotDeclared(Exception):
    """The set's format decides what is stored of an image, and is not known."""


@dataclass(frozen=True)
class _Decoded:
    """An image of the shard; its map is None if the saliency source computes it from pixels."""

    image: RawImage
    stored: DecodedSource
    given_map: Map | None


def ensure_shard(job: ShardJob, limit: Limit = nullcontext) -> BuiltShard:
    """Make a shard, unless it is whole. `limit` surrounds each decoding and each batch of maps.

    Where the set's format decides what is stored of an image, and is not known, it is a
    `ScannedShard`.

    Raises:
        InputError: a source cannot be read, has vanished or has changed (names it), or a store
            cannot be reached.
        OSError: the shard cannot be written.
    """
    record = read_record(job.out, job.name)
    if record is not None and _is_whole(job, record):
        return BuiltShard(record.shard, record.num_rejected, rebuilt=False)
    try:
        return _made(job, limit)
    except _NotDeclared:
        return _scanned(job, limit)


def _made(job: ShardJob, limit: Limit) -> BuiltShard:
    known = _known_digests(job)
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    batch: list[_Decoded] = []
    num_clipped = num_few_levels = 0
    with job.out.new_file(shard_file(job.name)) as file:
        writer = ShardWriter(file, job.name)
        for image in read_images(job.data, planned_rows(job.out, job.number, job.generation)):
            if known.get(image.source, image.sha256) != image.sha256:
                raise InputError(
                    f"{image.source} has changed since {job.name} was made: "
                    "choose another --out, or put the old file back"
                )
            try:
                batch.append(_decode(job, image, limit))
            except ImageError as error:
                rejected.append({"source": image.source, "reason": str(error)})
                continue
            stored = batch[-1].stored
            num_clipped += stored.outside > 0
            num_few_levels += stored.num_levels is not None and stored.num_levels < FEW_LEVELS
            num_pixels = sum(decoded.stored.pixels.size // 3 for decoded in batch)
            if len(batch) == job.saliency.batch_images or num_pixels > BATCH_PIXELS:
                rows += _write_batch(job, writer, batch, limit)
                batch = []
        rows += _write_batch(job, writer, batch, limit)
        info = writer.finish()
    write_rejected(job.out, job.name, rejected)
    record = ShardRecord(shard=info, plan_digest=job.plan_digest, num_rejected=len(rejected))
    write_manifest(job.out, record, rows)
    return BuiltShard(info, len(rejected), True, num_clipped, num_few_levels)


def _scanned(job: ShardJob, limit: Limit) -> ScannedShard:
    """Look at the values of all images, and write nothing."""
    seen: list[SeenValues] = []
    rows = planned_rows(job.out, job.number, job.generation)
    for image in read_images(job.data, rows):
        with suppress(ImageError), limit(1):
            if image.source not in job.rejected:
                found = read_source(image.data, job.max_pixels)
                seen.append(plain_images(1) if isinstance(found, DecodedSource) else look_at(found))
    info = ShardInfo(name=job.name, num_images=rows.num_rows, num_bytes=0, sha256="")
    return ScannedShard(info, 0, rebuilt=False, seen=merged(seen))


def rehearse(job: ShardJob, row: pa.RecordBatch, limit: Limit = nullcontext) -> None:
    """Process the image of one row of the plan and write nothing; InputError if it is not read."""
    (image,) = read_images(job.data, row)
    try:
        decoded = _decode(job, image, limit)
    except (ImageError, _NotDeclared):
        return
    _levels(job, [decoded], limit)


def looks_whole(job: ShardJob) -> bool:
    """Whether a shard has its manifest, its rejected list, and a tar of the right size."""
    record = read_record(job.out, job.name)
    tar = shard_file(job.name)
    if record is None or record.plan_digest != job.plan_digest:
        return False
    if job.out.size(tar) != record.shard.num_bytes:
        return False
    try:
        return int(read_rejected(job.out, job.name).num_rows) == record.num_rejected
    except SetError:
        return False


def _is_whole(job: ShardJob, record: ShardRecord) -> bool:
    """Whether tar and rejected list are as the manifest, written last, says.

    The digest of a local tar is compared. An object exists as it was uploaded or not at all, so
    its size is enough.
    """
    tar = shard_file(job.name)
    if not looks_whole(job):
        return False
    if job.out.is_remote:
        return True
    with job.out.open(tar) as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == record.shard.sha256


def _known_digests(job: ShardJob) -> dict[str, str]:
    """sha256 by source, from an earlier manifest of this shard if there is one."""
    try:
        table = read_manifest(job.out, job.name, ["source", "sha256"])
    except SetError:
        return {}
    return dict(zip(table["source"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _decode(job: ShardJob, image: RawImage, limit: Limit) -> _Decoded:
    if image.source in job.rejected:
        raise ImageError(job.rejected[image.source])
    with limit(1):
        decoded = _stored(job, read_source(image.data, job.max_pixels))
        given_map = None
        if isinstance(job.saliency, External):
            given_map = job.saliency.map_of(image.source, decoded.pixels, image.mask)
        if job.resize_short:
            decoded = shrink_source(decoded, job.resize_short)
    return _Decoded(image, decoded, given_map)


def _stored(job: ShardJob, found: DecodedSource | Values) -> DecodedSource:
    if isinstance(found, DecodedSource):
        check_channels(found.pixels, RGB if job.pixels is None else job.pixels.channels)
        return found
    if job.pixels is None:
        raise _NotDeclared
    return store_values(found, job.pixels)


def _levels(job: ShardJob, batch: list[_Decoded], limit: Limit) -> list[NDArray[np.uint8]]:
    """The saliency maps of decoded images as they are stored."""
    maps = [decoded.given_map for decoded in batch if decoded.given_map is not None]
    if len(maps) < len(batch):
        with limit(len(batch)):
            images = [three_channels(decoded.stored.pixels) for decoded in batch]
            maps = list(job.saliency(images))
    return [saliency_levels(saliency_map, job.saliency_size) for saliency_map in maps]


def _write_batch(
    job: ShardJob, writer: ShardWriter, batch: list[_Decoded], limit: Limit
) -> list[dict[str, Any]]:
    """Write decoded images with their saliency; return their manifest rows."""
    rows = []
    for decoded, levels in zip(batch, _levels(job, batch, limit), strict=True):
        image, stored = decoded.image, decoded.stored
        height, width = stored.pixels.shape[:2]
        about = {"source": image.source, "width": width, "height": height}
        about |= {"label": image.label, "sha256": image.sha256}
        if stored.orientation != 1:  # for readers that ignore EXIF
            about["orientation"] = stored.orientation
        if stored.pixels.shape[2] != RGB:
            about["channels"] = stored.pixels.shape[2]
        if stored.num_levels is not None:
            about |= {"levels": stored.num_levels, "outside": round(stored.outside, 6)}
        row = writer.add(stored.stored_bytes, stored.ext, encode_png(levels), about)
        found = map_statistics(levels)
        row |= {"saliency_mean": found.mean, "saliency_std": found.std}
        row |= {"foreground_share": found.foreground_share, "separability": found.separability}
        rows.append(row)
    return rows
